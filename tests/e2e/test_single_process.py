"""The same seven services on one loop: the same mesh to everybody outside."""

from collections.abc import Callable, Iterator

import aiohttp
import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher import status
from tests.e2e.conftest import Rest
from tests.support.mesh import RunningMesh, running_mesh

#: Memory of the whole mesh in one process, as `comitia status` counts it.
MOST_PSS_BYTES = 450_000_000


@pytest.fixture(scope="module")
def small() -> Iterator[RunningMesh]:
    """Gives a mesh in a single process."""
    with running_mesh(single_process=True) as running:
        yield running


async def test_a_session_runs_to_its_end_by_grpc_and_by_rest(small: RunningMesh) -> None:
    async with AsyncClient(small.url, api_key=small.admin_key) as client, aiohttp.ClientSession() as http:
        rest = Rest(http, small.url, small.admin_key)
        assert (await client.status()).serving
        for name in ("Ada", "Bob"):
            await client.agents.create(name)
        session = await client.sessions.start("Rivers", agents=["Ada", "Bob"], max_rounds=1)
        seen = [event async for event in client.sessions.watch(session.session_id)]
        kinds = [kind for event in seen if (kind := event.WhichOneof("event")) != "text_delta"]
        assert kinds == [
            *("session_started", "turn_started", "turn_completed", "turn_started", "turn_completed"),
            *("round_scored", "session_ended"),
        ]
        assert seen[-1].session_ended.state == session_pb2.SESSION_STATE_SUCCEEDED

        body = {"topic": "Rivers", "mode": "SESSION_MODE_CONSENSUS", "agents": ["Ada"], "max_rounds": 1}
        started = await rest.ask("POST", "/v1/sessions", body)
        assert started.status == 200
        run = started.body["session"]["session_id"]
        async with http.get(f"{small.url}/v1/sessions/{run}:watch", headers={"x-api-key": small.admin_key}) as answer:
            assert b"session_ended" in await answer.read()
        turns = await rest.ask("GET", f"/v1/sessions/{run}/turns")
        assert [turn["cost"]["provider"] for turn in turns.body["turns"]] == ["openai"]

        summary = await client.costs.summary(by="run", run_id=run)
        assert summary.total_nano_usd >= int(turns.body["turns"][0]["cost"]["cost_nano_usd"]) > 0
        assert (await client.tools.invoke("calculator", {"expression": "6 * 7"})).parts[0].text.text == "42"


def test_it_is_one_process_and_small(small: RunningMesh, record_property: Callable[[str, object], None]) -> None:
    found = status.status(small.data_dir)
    assert found.single_process
    assert {child.name for child in found.children} == {"launcher", "postgres", "nats", "edge"}
    record_property("pss_mb", round(found.pss_bytes / 1e6))
    assert found.pss_bytes <= MOST_PSS_BYTES
