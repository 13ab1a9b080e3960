"""What others are told of runs, and what becomes of it when nobody takes it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, run_event_pb2, run_pb2, session_pb2, workflow_pb2
from comitia_sdk.record.run_event import is_whole
from services.meshkit.bus.bus import Outgoing
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.telemetry import metrics
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.run_events import NatsRunEvents
from services.orchestrator.engine.run import OwnedRun, RunWrite
from services.orchestrator.engine.run_events import events_of
from tests.support.sessions import RUN_ID, a_start

AT = Timestamp(seconds=1_800_000_000)
RUN = OwnedRun(tenant=TENANT, run_id=RUN_ID, grant_id="grant_x", shard=1)
FORKED = journal_pb2.RunStarted(
    program="graph",
    workflow=workflow_pb2.Workflow(name="claims", version="1.2.0"),
    run=run_pb2.Run(run_id=RUN_ID, parent_run_id="run_parent"),
    fork=journal_pb2.Fork(run_id="run_other", at_sequence=4),
)
A_TURN = session_pb2.Turn(
    agent_name="Athena",
    agent_version="1.0.0",
    input=session_pb2.TurnInput(prompt="a secret of the tenant"),
    output=session_pb2.TurnOutput(),
    cost=session_pb2.TurnCost(cost_nano_usd=12),
)


def a_write(*facts: Message, first_sequence: int = 1) -> RunWrite:
    """Builds what one commit recorded."""
    entries: list[journal_pb2.JournalEntry] = []
    for fact in facts:
        entry = journal_pb2.JournalEntry(record_time=AT, path="rounds/1/Athena")
        field = next(field for field in entry.DESCRIPTOR.fields if field.message_type is fact.DESCRIPTOR)
        getattr(entry, field.name).CopyFrom(fact)
        entries.append(entry)
    return RunWrite(run=RUN, first_sequence=first_sequence, entries=entries, view=None)


def ended(state: session_pb2.SessionState.ValueType, reason: str = "") -> journal_pb2.RunEnded:
    return journal_pb2.RunEnded(state=state, reason=reason, message="a sentence", topic_final="a secret of the tenant")


def told(*facts: Message) -> list[tuple[int, str, str]]:
    return [(event.sequence, event.kind, event.reason) for event in events_of(a_write(*facts, first_sequence=5))]


class Stream:
    """Takes the messages of the bus; faults come first."""

    def __init__(self, *faults: MeshError) -> None:
        self.faults = list(faults)
        self.taken: list[Outgoing] = []
        self.asked = 0

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """See `Bus.publish_all`."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        self.taken += messages


def events_into(stream: Stream, clock: FakeClock, *, most: int = 100) -> NatsRunEvents:
    return NatsRunEvents(stream, clock=clock, most=most)


def lost() -> float:
    return metrics.QUEUE_REFUSED.labels("orchestrator.run_events")._value.get()


def test_what_a_run_comes_to_is_told_with_its_place_in_the_run() -> None:
    assert told(
        a_start(),
        journal_pb2.RunWaiting(round=1),
        journal_pb2.RunAdvanced(by="key_x"),
        journal_pb2.RunPaused(by="key_x"),
        journal_pb2.RunContinued(by="key_x"),
        journal_pb2.RunParked(reason="UNAVAILABLE"),
        journal_pb2.RunResumed(),
        journal_pb2.StepParked(reason="TOOL_FAILED"),
        journal_pb2.RunCancelling(by="key_x"),
        ended(session_pb2.SESSION_STATE_CANCELLED),
    ) == [
        (5, "started", ""),
        (6, "waiting", ""),
        (7, "resumed", ""),
        (8, "paused", ""),
        (9, "resumed", ""),
        (10, "parked", "UNAVAILABLE"),
        (11, "resumed", ""),
        (12, "step_parked", "TOOL_FAILED"),
        (13, "cancelling", ""),
        (14, "cancelled", ""),
    ]


def test_an_end_is_told_as_what_it_is() -> None:
    assert told(ended(session_pb2.SESSION_STATE_SUCCEEDED)) == [(5, "succeeded", "")]
    assert told(ended(session_pb2.SESSION_STATE_FAILED, "LAW_BLOCKED")) == [(5, "failed", "LAW_BLOCKED")]
    assert told(journal_pb2.RunAbandoned(reason="RUN_DIVERGED")) == [(5, "cancelled", "RUN_DIVERGED")]


def test_every_fact_of_a_step_but_a_turn_is_the_runs_own_business() -> None:
    assert (
        told(
            journal_pb2.StepStarted(),
            journal_pb2.CallIntended(),
            journal_pb2.CallAnswered(),
            journal_pb2.CallFailed(),
            journal_pb2.StepCompleted(),
            journal_pb2.StepFailed(),
            journal_pb2.TimerStarted(),
            journal_pb2.SignalReceived(),
        )
        == []
    )


def test_an_event_says_who_spoke_and_not_what_was_said() -> None:
    (event,) = events_of(a_write(journal_pb2.StepCompleted(turn=A_TURN)))
    assert (event.kind, event.agent, event.cost_nano_usd) == ("turn_recorded", "Athena@1.0.0", 12)
    assert (event.path, event.event_time) == ("rounds/1/Athena", AT)
    everything = a_write(
        a_start(topic="a secret of the tenant"),
        journal_pb2.StepCompleted(turn=A_TURN),
        ended(session_pb2.SESSION_STATE_SUCCEEDED),
    )
    assert all(b"a secret" not in event.SerializeToString() for event in events_of(everything))


def test_the_start_of_a_fork_says_where_it_comes_from() -> None:
    (event,) = events_of(a_write(FORKED))
    assert (event.program, event.workflow) == ("graph", "claims@1.2.0")
    assert (event.parent_run_id, event.forked_from_run_id) == ("run_parent", "run_other")


async def test_an_event_goes_out_under_its_tenant_with_its_hash_and_an_id_that_stays() -> None:
    stream, clock = Stream(), FakeClock()
    events = events_into(stream, clock)
    publishing = asyncio.create_task(events.publish())
    events.recorded(a_write(a_start()))
    await events.finish()
    publishing.cancel()
    (message,) = stream.taken
    event = run_event_pb2.RunEvent.FromString(message.body)
    assert message.subject == f"comitia.orchestrator.run.started.v1.{TENANT}"
    assert message.msg_id == event.event_id == f"{RUN_ID}/1"
    assert is_whole(event)


async def test_what_nobody_takes_is_sent_again_until_somebody_does() -> None:
    stream, clock = Stream(Unavailable("nats"), Unavailable("nats")), FakeClock()
    events = events_into(stream, clock)
    publishing = asyncio.create_task(events.publish())
    events.recorded(a_write(a_start(), journal_pb2.RunWaiting()))
    for _ in range(2):
        await clock.until_someone_sleeps()
        clock.advance(seconds=1)
    await events.finish()
    publishing.cancel()
    assert [message.msg_id for message in stream.taken] == [f"{RUN_ID}/1", f"{RUN_ID}/2"]
    assert stream.asked == 3


async def test_a_full_queue_drops_the_oldest_and_counts_it_and_holds_up_nobody() -> None:
    before, stream = lost(), Stream()
    events = events_into(stream, FakeClock(), most=3)
    events.recorded(a_write(*(journal_pb2.RunWaiting() for _ in range(5))))
    publishing = asyncio.create_task(events.publish())
    await events.finish()
    publishing.cancel()
    assert [message.msg_id for message in stream.taken] == [f"{RUN_ID}/{number}" for number in (3, 4, 5)]
    assert lost() - before == 2


async def test_what_came_while_others_were_sent_is_sent_next() -> None:
    stream, clock = Stream(), FakeClock()
    events = events_into(stream, clock, most=2)
    events.recorded(a_write(journal_pb2.RunWaiting(), journal_pb2.RunWaiting()))
    publishing = asyncio.create_task(events.publish())
    await asyncio.sleep(0)
    # The two are on their way, and one of them has to make room.
    events.recorded(a_write(journal_pb2.RunWaiting(), first_sequence=3))
    await events.finish()
    publishing.cancel()
    assert [message.msg_id for message in stream.taken] == [f"{RUN_ID}/{number}" for number in (1, 2, 3)]


async def test_a_replica_that_stops_while_nats_is_away_stops_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.orchestrator.clients.run_events._LAST_SECONDS", 0.01)
    before, stream = lost(), Stream(*(Unavailable("nats") for _ in range(9)))
    events = events_into(stream, FakeClock())
    publishing = asyncio.create_task(events.publish())
    events.recorded(a_write(a_start()))
    await events.finish()
    publishing.cancel()
    with suppress(asyncio.CancelledError):
        await publishing
    assert lost() - before == 1
