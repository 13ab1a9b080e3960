"""The batch stream of memory: recalls and memories of many turns, each with its own identity, time and outcome."""

from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from comitia.memory.v1 import memory_service_pb2 as pb
from comitia.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from services.meshkit.core.identity import Role
from services.meshkit.telemetry import names
from tests.integration.memory.conftest import MemoryMesh, a_context, a_remember, a_session
from tests.support.batch_stream import BatchStream, reasons


def remembering(*texts: str, **changes: Any) -> pb.BatchMemoriesRequest.Item:
    return pb.BatchMemoriesRequest.Item(remember=a_remember(*texts, **{"context": a_context(), **changes}))


def recalling(session: str, **changes: Any) -> pb.BatchMemoriesRequest.Item:
    values: dict[str, Any] = {"context": a_context(), "recent_turns": 10, **changes}
    return pb.BatchMemoriesRequest.Item(recall=pb.RecallRequest(session_id=session, **values))


def stream(mesh: MemoryMesh, *callers: MemoryMesh, peer: str = "orchestrator") -> BatchStream:
    """Opens a stream of a service; who its items speak for is named by the items only."""
    metadata = [("comitia-workload", mesh.around.keys.workload(peer).assertion())]
    call = MemoryServiceStub(mesh.channel).BatchMemories(metadata=metadata)
    return BatchStream(call, pb.BatchMemoriesRequest, *(caller.principal for caller in callers or (mesh,)))


def said(answer: Any) -> list[str]:
    return [part.text.text for memory in answer.recall.recent for part in memory.parts]


def trips(queue: str) -> float:
    """Counts the groups that went to Postgres so far."""
    return REGISTRY.get_sample_value(f"{names.BATCH_ITEMS}_count", {"queue": queue}) or 0


async def test_what_a_frame_remembers_the_next_one_recalls(mesh: MemoryMesh, other: MemoryMesh) -> None:
    session, elsewhere = a_session(), a_session()
    both = stream(mesh, mesh, other)
    made = await both.ask(
        (0, remembering("One.", session_id=session)),
        (1, remembering("Two.", session_id=elsewhere)),
    )
    assert all(answer.remember.verdict_id and answer.remember.memory.memory_id for answer in made)
    found = await both.ask(
        (0, recalling(session)), (1, recalling(elsewhere)), (0, recalling(elsewhere)), (1, recalling(session))
    )
    assert [said(answer) for answer in found] == [["One."], ["Two."], [], []]


async def test_a_bad_item_fails_alone(mesh: MemoryMesh) -> None:
    session = a_session()
    mesh.around.law.blocked.add("secret")
    reader = mesh.speaking_as(Role.AUDITOR)
    again = a_context()
    answers = await stream(mesh, mesh, reader).ask(
        (0, remembering("Good.", session_id=session, context=again)),
        (0, remembering("A secret.", session_id=session)),
        (0, remembering(session_id="nonsense")),
        (0, remembering(context=None)),
        (0, recalling("nonsense")),
        (0, recalling(session, recent_turns=51)),
        (0, pb.BatchMemoriesRequest.Item()),
        (1, recalling(session)),
        (7, recalling(session)),
        (0, recalling(session)),
    )
    assert reasons(answers) == [
        "ok",
        "LAW_BLOCKED",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "PERMISSION_MISSING",
        "TOKEN_MISSING",
        "ok",
    ]
    changed, repeated = await stream(mesh).ask(
        (0, remembering("Other.", session_id=session, context=again)),
        (0, remembering("Good.", session_id=session, context=again)),
    )
    assert changed == "CALL_ARGUMENTS_DIFFER"
    assert repeated.remember.memory == answers[0].remember.memory


async def test_a_row_that_the_database_refuses_fails_alone(mesh: MemoryMesh) -> None:
    session = a_session()
    mesh.around.law.names += ["verdict_1", "verdict_\x00", "verdict_3"]
    texts = ("First.", "Broken.", "Third.")
    answers = await stream(mesh).ask(*((0, remembering(text, session_id=session)) for text in texts))
    assert reasons(answers) == ["ok", "VALUE_UNSTORABLE", "ok"]
    (found,) = await stream(mesh).ask((0, recalling(session)))
    assert sorted(said(found)) == ["First.", "Third."]


async def test_the_items_of_a_frame_share_transactions(mesh: MemoryMesh) -> None:
    sessions = [a_session() for _ in range(40)]
    both = stream(mesh)
    # The tenant's key and the connections are made by the first.
    await both.ask((0, remembering("First.")), (0, recalling(sessions[0])))
    before = trips("memory.remember"), trips("memory.rings")
    made = await both.ask(*((0, remembering("Said.", session_id=session)) for session in sessions))
    found = await both.ask(*((0, recalling(session)) for session in sessions))
    assert set(reasons(made)) == {"ok"}
    assert [said(answer) for answer in found] == [["Said."]] * 40
    assert trips("memory.remember") - before[0] < 10
    assert trips("memory.rings") - before[1] == 1


async def test_an_item_that_is_taken_back_ends_and_its_neighbours_go_on(mesh: MemoryMesh) -> None:
    session = a_session()
    mesh.around.inference.answers.clear()
    asked = stream(mesh)
    waiting, plain = await asked.send(
        (0, recalling(session, query="rivers", semantic_matches=3)), (0, recalling(session))
    )
    assert reasons(await asked.answers([plain])) == ["ok"]
    await asked.take_back(waiting)
    assert await asked.answers([waiting]) == ["CANCELLED"]
    mesh.around.inference.answers.set()
    assert reasons(await asked.ask((0, remembering("Still there.", session_id=session)))) == ["ok"]


async def test_an_item_ends_at_its_own_deadline(mesh: MemoryMesh) -> None:
    session = a_session()
    mesh.around.inference.answers.clear()
    asked = stream(mesh)
    (late,) = await asked.send((0, recalling(session, query="rivers", semantic_matches=3)), seconds=0.2)
    past = await asked.send((0, recalling(session)), seconds=-1.0)
    in_time = await asked.send((0, recalling(session)), seconds=20.0)
    assert reasons(await asked.answers([*past, *in_time])) == ["DEADLINE_EXCEEDED", "ok"]
    # Nobody ever answers memory. Its own question ends with the item's time, so mostly there is half an answer.
    (ended,) = await asked.answers([late])
    assert ended == "DEADLINE_EXCEEDED" or ended.recall.semantic_skipped


async def test_a_frame_of_too_many_items_ends_its_stream_only(mesh: MemoryMesh) -> None:
    session = a_session()
    broken = stream(mesh)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await broken.ask(*((0, recalling(session)) for _ in range(513)))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reasons(await stream(mesh).ask((0, recalling(session)))) == ["ok"]


async def test_an_answer_that_fits_no_frame_fails_alone(mesh: MemoryMesh) -> None:
    session = a_session()
    asked = stream(mesh)
    large = [remembering("x" * 60_000, session_id=session) for _ in range(40)]
    assert set(reasons(await asked.ask(*((0, item) for item in large[:20])))) == {"ok"}
    assert set(reasons(await asked.ask(*((0, item) for item in large[20:])))) == {"ok"}
    everything, little = await asked.ask(
        (0, recalling(session, recent_turns=50, max_tokens=10_000_000)), (0, recalling(session, recent_turns=1))
    )
    assert everything == "ANSWER_TOO_LARGE"
    assert little.recall.truncated


async def test_other_services_and_outside_callers_cannot_open_it(mesh: MemoryMesh) -> None:
    for peer in ("inference", "policy"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream(mesh, peer=peer).ask((0, recalling(a_session())))
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    call = MemoryServiceStub(mesh.channel).BatchMemories(
        metadata=[("authorization", f"Bearer {mesh.principal.token.reveal()}")]
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await BatchStream(call, pb.BatchMemoriesRequest, mesh.principal).ask((0, recalling(a_session())))
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
