"""`comitia demo` on the model that ships with Comitia: a real debate, and every word of it is the model's."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from services.launcher import status
from services.launcher.embedded import local_model
from tests.support.mesh import RunningMesh, running_mesh

#: Memory of the local model and embedder together, counted apart from the mesh.
MOST_PSS_BYTES = 900_000_000


@pytest.fixture(scope="module")
def alone() -> Iterator[RunningMesh]:
    """Gives a mesh whose only model is the local one."""
    missing = local_model.missing_wheels()
    if missing:
        pytest.skip(f"needs the local model: the wheel {missing[0]} is not installed; run `make setup`")
    with running_mesh(local_model=True, openai=False) as running:
        yield running


def test_two_agents_debate_on_the_local_model(
    alone: RunningMesh, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    done = alone.comitia("demo", "--rounds", "1")
    seconds = time.monotonic() - began

    shown = done.stdout
    run = re.search(r"run_\w+", shown)
    assert run is not None, shown
    turns = json.loads(alone.comitia("session", "turns", run[0], "-o", "json").stdout)
    assert len(turns) == 2
    for turn in turns:
        assert (turn["cost"]["provider"], turn["output"].get("stub", False)) == ("local", False)
        assert int(turn["output"]["usage"]["output_tokens"]) > 0
        assert turn["output"]["content"].strip()
        assert turn["verdict_ids"]
    assert turns[0]["output"]["content"] != turns[1]["output"]["content"]
    for word in ("verdicts", "tokens", "comitia session turns"):
        assert word in shown
    [model] = [child for child in status.status(alone.data_dir).children if child.name == "local-model"]
    assert model.pss_bytes is not None
    assert model.pss_bytes <= MOST_PSS_BYTES
    record_property("demo_seconds", round(seconds, 1))
    record_property("local_model_pss_mb", round(model.pss_bytes / 1e6))
    print(f"demo of one round: {seconds:.1f} s; the local model holds {model.pss_bytes / 1e6:.0f} MB")
