"""The batch stream of inference: calls of many turns, each with its own identity, time, money, law and outcome."""

from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.telemetry import names
from tests.integration.inference.conftest import InferenceMesh, StartInference, a_context, a_request
from tests.support.batch_stream import BatchStream, reasons
from tests.support.providers.fake import Behaviour

MODEL = "openai/gpt-4o-mini"
#: A provider that takes longer than any test waits.
NEVER = Behaviour(wait=60.0)

pytestmark = pytest.mark.asyncio(loop_scope="module")


def asking(*texts: str, path: str = "", deltas: bool = False, **changes: Any) -> pb.BatchGenerateRequest.Item:
    request = a_request(*texts, kind=pb.StreamGenerateRequest, path=path, **{"model": "stub", **changes})
    return pb.BatchGenerateRequest.Item(generate=request, include_deltas=deltas)


def stream(mesh: InferenceMesh, *callers: InferenceMesh, peer: str = "orchestrator") -> BatchStream:
    """Opens a stream of a service; who its items speak for is named by the items only."""
    metadata = [("comitia-workload", mesh.keys.workload(peer).assertion())]
    call = InferenceServiceStub(mesh.channel).BatchGenerate(metadata=metadata)
    return BatchStream(call, pb.BatchGenerateRequest, *(caller.principal for caller in callers or (mesh,)))


def trips(queue: str) -> float:
    """Counts the groups that went to Postgres so far."""
    return REGISTRY.get_sample_value(f"{names.BATCH_ITEMS}_count", {"queue": queue}) or 0


async def test_each_call_is_answered_held_and_recorded_for_its_own_tenant(mesh: InferenceMesh) -> None:
    other = mesh.speaking_as(mesh.keys.principal(tenant=TenantId(uuid4())))
    asked = stream(mesh, mesh, other)
    answers = await asked.ask((0, asking(path="a")), (1, asking(path="a")), (0, asking("Else?", path="b")))
    assert all(answer.generation.stub and answer.generation.hold_id for answer in answers)
    assert not any(answer.generation.replayed for answer in answers)
    assert [row.path for row in await mesh.rows("path")] == ["a", "b"]
    assert [row.path for row in await other.rows("path")] == ["a"]
    (again,) = await asked.ask((0, asking(path="a")))
    assert again.generation.replayed
    assert again.generation.parts == answers[0].generation.parts


async def test_calls_that_a_run_has_recorded_are_acknowledged_by_itself_alone(mesh: InferenceMesh) -> None:
    run = "run_01jd0000000000000000000000"
    of_run = mesh.speaking_as(mesh.keys.principal(tenant=mesh.principal.tenant, run_id=run))
    of_another = mesh.speaking_as(mesh.keys.principal(tenant=TenantId(uuid4()), run_id=run))
    asked = stream(mesh, of_run, mesh, of_another)
    await asked.ask(
        *((0, asking(context=a_context(path, run_id=run))) for path in ("a", "b")), (1, asking(path="direct"))
    )

    def recorded(*paths: str, run_id: str = run) -> pb.BatchGenerateRequest.Item:
        return pb.BatchGenerateRequest.Item(acknowledged=[a_context(path, run_id=run_id).call_id for path in paths])

    answers = await asked.ask(
        (0, recorded("a", "unknown")),
        (1, recorded("b")),
        (1, recorded("direct", run_id="essay_01")),
        (0, recorded("direct", run_id="essay_01")),
        (2, recorded("b")),
        (0, recorded(*["b"] * 257)),
        (0, recorded("b\0")),
    )
    assert reasons(answers) == ["ok", *["INVALID_FIELD"] * 3, "ok", *["INVALID_FIELD"] * 2]
    rows = await mesh.rows("path, acknowledged_time IS NOT NULL AS known")
    assert {(row.path, row.known) for row in rows} == {("a", True), ("b", False), ("direct", False)}


async def test_a_bad_item_fails_alone(mesh: InferenceMesh) -> None:
    mesh.law.blocked.add("secret")
    reader = mesh.speaking_as(mesh.keys.principal(Role.AUDITOR, tenant=mesh.principal.tenant))
    of_run = mesh.keys.principal(tenant=mesh.principal.tenant, run_id="run_01jd0000000000000000000000")
    asked = stream(mesh, mesh, reader, mesh.speaking_as(of_run))
    (first,) = await asked.ask((0, asking("First.", path="first")))
    answers = await asked.ask(
        (0, asking(path="good")),
        (0, asking("A secret.", path="blocked")),
        (0, asking(path="nobody", model="nobody/knows")),
        (0, asking(path="")),
        (0, asking(path="tokens", max_output_tokens=-1)),
        (0, asking("Another.", path="first")),
        (0, pb.BatchGenerateRequest.Item()),
        (1, asking(path="reader")),
        (2, asking(path="of_another_run")),
        (9, asking(path="foreign")),
        (0, asking(path="also good")),
    )
    assert reasons([first]) == ["ok"]
    assert reasons(answers) == [
        "ok",
        "LAW_BLOCKED",
        "MODEL_NOT_FOUND",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "CALL_ARGUMENTS_DIFFER",
        "INVALID_FIELD",
        "PERMISSION_MISSING",
        "INVALID_FIELD",
        "TOKEN_MISSING",
        "ok",
    ]


async def test_law_hears_by_which_bundle_a_run_is_judged_and_from_nobody_else(mesh: InferenceMesh) -> None:
    run_id = "run_01jd0000000000000000000000"
    run = mesh.speaking_as(mesh.keys.principal(tenant=mesh.principal.tenant, run_id=run_id))
    bundle = {"bundle": "strict@1.0.0", "bundle_digest": "ab"}
    asked = stream(mesh, mesh, run)
    answers = await asked.ask(
        (0, asking("Not of a run.", path="", context=a_context("a", **bundle))),
        (1, asking("Of another run.", path="", context=a_context("a", run_id="run_x", **bundle))),
        (1, asking("Of the run.", path="", context=a_context("a", run_id=run_id, **bundle))),
    )
    assert reasons(answers) == ["INVALID_FIELD", "INVALID_FIELD", "ok"]
    assert len(mesh.law.seen) >= 2
    assert {(seen.context.bundle, seen.context.bundle_digest) for seen in mesh.law.seen} == {("strict@1.0.0", "ab")}
    other = stream(mesh, run, peer="gateway")
    with pytest.raises(grpc.aio.AioRpcError):
        await other.ask((0, asking("Of a service.", path="", context=a_context("b", run_id=run_id, **bundle))))


async def test_the_calls_of_a_frame_are_claimed_and_recorded_together(mesh: InferenceMesh) -> None:
    asked = stream(mesh)
    await asked.ask((0, asking(path="first")))
    before = trips("inference.claims"), trips("inference.records")
    answers = await asked.ask(*((0, asking(f"Number {n}.", path=f"many/{n}")) for n in range(40)))
    assert set(reasons(answers)) == {"ok"}
    assert trips("inference.claims") - before[0] == 1
    assert trips("inference.records") - before[1] < 20
    assert len(await mesh.rows("path")) == 41


async def test_the_same_call_twice_in_a_frame_is_made_once(mesh: InferenceMesh) -> None:
    one, two = await stream(mesh).ask((0, asking(path="twice")), (0, asking(path="twice")))
    assert one.generation == two.generation
    assert len(await mesh.charges()) <= 1


async def test_text_comes_before_its_answer_if_it_is_asked_for(mesh: InferenceMesh) -> None:
    asked = stream(mesh)
    plain, written = await asked.send((0, asking(path="plain")), (0, asking(path="written", deltas=True)))
    (whole,) = await asked.pieces(plain)
    *pieces, last = await asked.pieces(written)
    assert whole.WhichOneof("event") == "generation"
    assert pieces
    assert "".join(piece.text_delta for piece in pieces) == last.generation.parts[0].text.text
    assert not last.status.more


async def test_a_call_that_is_taken_back_ends_and_its_neighbours_go_on(mesh: InferenceMesh) -> None:
    mesh.provider.next(NEVER)
    asked = stream(mesh)
    waiting, plain = await asked.send((0, asking(path="slow", model=MODEL)), (0, asking(path="quick")))
    assert reasons(await asked.answers([plain])) == ["ok"]
    await asked.take_back(waiting)
    assert await asked.answers([waiting]) == ["CANCELLED"]
    assert reasons(await asked.ask((0, asking(path="after")))) == ["ok"]


async def test_a_call_ends_at_its_own_deadline(mesh: InferenceMesh) -> None:
    mesh.provider.next(NEVER)
    asked = stream(mesh)
    late = await asked.send((0, asking(path="slow", model=MODEL)), seconds=0.5)
    past = await asked.send((0, asking(path="past")), seconds=-1.0)
    in_time = await asked.send((0, asking(path="quick")), seconds=20.0)
    found = reasons(await asked.answers([*late, *past, *in_time]))
    assert found[1:] == ["DEADLINE_EXCEEDED", "ok"]
    assert found[0] in ("DEADLINE_EXCEEDED", "PROVIDER_UNAVAILABLE")


async def test_one_call_more_than_are_made_at_once_is_refused_and_the_others_are_made(start: StartInference) -> None:
    async with start(max_model_calls=2, max_waiting_calls=0) as mesh:
        mesh.provider.next(NEVER, NEVER)
        asked = stream(mesh)
        slow = [(0, asking(f"{n}", path=f"slow/{n}", model=MODEL)) for n in range(2)]
        waiting = await asked.send(*slow)
        await mesh.provider.until(lambda meter: len(meter.calls) == 2)
        assert await asked.ask((0, asking(path="one more"))) == ["TOO_MANY_MODEL_CALLS"]
        await asked.take_back(*waiting)
        assert await asked.answers(waiting) == ["CANCELLED"] * 2
        assert reasons(await asked.ask((0, asking(path="one less")))) == ["ok"]


async def test_a_frame_of_too_many_items_ends_its_stream_only(mesh: InferenceMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream(mesh).ask(*((0, asking(path=f"{n}")) for n in range(513)))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reasons(await stream(mesh).ask((0, asking(path="next")))) == ["ok"]


async def test_other_services_and_outside_callers_cannot_open_it(mesh: InferenceMesh) -> None:
    for peer in ("memory", "policy"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream(mesh, peer=peer).ask((0, asking(path="no")))
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
