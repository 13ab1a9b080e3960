"""One turn is one trace, from its first fact to its last, and every service that took part is in it."""

import json
from collections.abc import Iterator

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher.layout import DataDir
from services.launcher.services import SERVICES
from services.meshkit.telemetry import genai, names
from tests.e2e.conftest import until
from tests.support.mesh import RunningMesh, running_mesh
from tests.support.otlp import Receiver, SeenSpan, running_receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Gives a collector."""
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def traced(receiver: Receiver) -> Iterator[RunningMesh]:
    """Gives a mesh that records every trace, and writes a line about every call."""
    settings = {"COMITIA_OTLP_ENDPOINT": receiver.url, "COMITIA_OTLP_RATIO": "1"} | {
        f"COMITIA_{service.upper()}_LOG_LEVEL": "debug" for service in SERVICES
    }
    with running_mesh(environment=settings) as running:
        yield running


async def test_a_turn_is_one_trace_with_spans_of_all_seven_services(traced: RunningMesh, receiver: Receiver) -> None:
    traced.provider.behave(text="", tool_calls=[("call_1", "calculator", '{"expression":"6 * 7"}')], match=["Rivers"])
    traced.provider.behave(text="It is 42.", match=["Rivers"])
    async with AsyncClient(traced.url, api_key=traced.admin_key) as client:
        await client.agents.create("Ada", tools=["calculator"])
        session = await client.sessions.start("Rivers", agents=["Ada"], max_rounds=1)
        run_id = session.session_id
        async for _ in client.sessions.watch(run_id):
            pass
        assert (await client.sessions.get(run_id)).state == session_pb2.SESSION_STATE_SUCCEEDED

    async def arrived() -> list[SeenSpan]:
        roots = [span for span in receiver.spans if span.name == names.SPAN_TURN]
        trace = [span for span in receiver.spans if roots and span.trace_id == roots[0].trace_id]
        known = {span.span_id for span in trace}
        # Each service sends its spans when it likes.
        whole = all(span.parent_id in known for span in trace if span.parent_id)
        return trace if whole and {span.service for span in trace} == set(SERVICES) else []

    trace = await until(arrived)
    [root] = [span for span in trace if not span.parent_id]
    assert root.attributes[genai.CONVERSATION_ID] == run_id
    assert root.attributes[genai.AGENT_NAME] == "Ada"
    known = {span.span_id for span in trace}
    assert all(span.parent_id in known for span in trace if span is not root)
    assert not any(span.failed for span in trace)

    called = {span.attributes[names.ATTRIBUTE_CALL] for span in trace if span.name == names.SPAN_CALL}
    assert {"RECALL", "GENERATE", "TOOL", "REMEMBER"} <= called
    [tool] = [span for span in trace if span.name == names.SPAN_TOOL]
    assert tool.attributes[genai.TOOL_NAME].startswith("calculator")
    asked = [span for span in trace if span.name == names.SPAN_INFERENCE]
    assert len(asked) == 2
    assert all(
        span.attributes[genai.OUTPUT_TOKENS] > 0 and span.attributes[genai.PROVIDER] == "openai" for span in asked
    )
    assert any(span.name.endswith("IdentityService/ExchangeGrant") for span in trace)
    assert any(span.name == names.SPAN_MONITOR and span.service == "policy" for span in trace)
    assert any(span.name.endswith("BudgetService/BatchSpend") for span in trace)
    check_the_logs(traced, run_id, root.trace_id)


def check_the_logs(mesh: RunningMesh, run_id: str, trace_id: str) -> None:
    """The lines that services wrote for the turn name its session and its trace; no line of a call names none."""
    own: set[str] = set()
    for service in SERVICES:
        for line in DataDir(mesh.data_dir).log(service).read_text().splitlines():
            said = json.loads(line)
            if said.get(names.LOG_TRACE_ID) == trace_id:
                own.add(service)
                assert said[names.LOG_CORRELATION_ID] == run_id, said
            if said["event"] in ("call done", "call failed"):
                assert said[names.LOG_TRACE_ID], said
    assert {"gateway", "tools"} <= own
