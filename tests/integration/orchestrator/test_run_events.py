"""Events of runs on a real JetStream: told once, whole, to their tenant's listeners, and never in anybody's way."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia.orchestrator.v1.run_event_pb2 import RunEvent
from comitia_sdk.record.run_event import is_whole
from services.meshkit.bus.bus import Bus, bus
from services.meshkit.bus.consumer import Consumer, Message
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.run_events import STREAM, EraseRunEvents
from tests.integration.conftest import NatsServer, RunNats, free_port
from tests.integration.orchestrator.conftest import House, Replica
from tests.integration.orchestrator.test_sessions import start, until

SUCCEEDED = session_pb2.SESSION_STATE_SUCCEEDED
#: All tests of a process share one NATS, and other files have runs of other tenants.
NOBODY_ELSES = TenantId(SystemIds().uuid())


@asynccontextmanager
async def listening(nats: NatsServer, subject: str) -> AsyncGenerator[tuple[Bus, list[Message]]]:
    """Hears what is on the stream, as a program beside the mesh does."""
    heard: list[Message] = []

    async def take(message: Message) -> None:
        heard.append(message)

    async with bus(nats.url, token=nats.token, streams=[STREAM]) as listener:
        await listener.wait_connected()
        name = f"test-{SystemIds().uuid().hex}"
        hearing = asyncio.create_task(Consumer(listener, STREAM, name, take, subjects=(subject,))())
        try:
            yield listener, heard
        finally:
            hearing.cancel()
            with suppress(asyncio.CancelledError):
                await hearing


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the condition is the listener's own list
            await asyncio.sleep(0.02)


def events(heard: list[Message], run_id: str) -> list[RunEvent]:
    found = (RunEvent.FromString(message.body) for message in heard)
    return sorted((event for event in found if event.run_id == run_id), key=lambda event: event.sequence)


async def test_a_listener_hears_of_a_session_from_its_start_to_its_end_each_once_and_whole(
    house: House, replica: Replica
) -> None:
    async with listening(house.nats, f"comitia.orchestrator.run.*.v1.{TENANT}") as (_, heard):
        session = await start(replica)
        ended = await until(replica, session.session_id, SUCCEEDED)
        await eventually(lambda: any(event.kind == "succeeded" for event in events(heard, session.session_id)))
    told = events(heard, session.session_id)
    assert [event.kind for event in told] == ["started", *["turn_recorded"] * 4, "succeeded"]
    assert all(is_whole(event) for event in told)
    assert {event.tenant_id for event in told} == {from_uuid("tenant", TENANT)}
    assert told[-1].sequence == ended.sequence
    assert [event.agent for event in told[1:3]] == ["Athena@1.0.0", "Apollo@1.0.0"]
    assert sum(event.cost_nano_usd for event in told) == ended.cost_nano_usd
    assert {message.msg_id for message in heard} >= {event.event_id for event in told}


async def test_an_event_that_is_published_twice_is_heard_once(house: House, replica: Replica) -> None:
    async with listening(house.nats, f"comitia.orchestrator.run.*.v1.{TENANT}") as (listener, heard):
        session = await start(replica)
        await eventually(lambda: any(event.kind == "succeeded" for event in events(heard, session.session_id)))
        again = [message for message in heard if RunEvent.FromString(message.body).run_id == session.session_id]
        for message in again:
            await listener.publish(message.subject, message.body, msg_id=message.msg_id)
        other = await start(replica)
        await eventually(lambda: any(event.kind == "succeeded" for event in events(heard, other.session_id)))
    assert len(events(heard, session.session_id)) == len(again)


async def test_a_listener_of_another_tenant_hears_nothing(house: House, replica: Replica) -> None:
    async with (
        listening(house.nats, f"comitia.orchestrator.run.*.v1.{NOBODY_ELSES}") as (_, theirs),
        listening(house.nats, f"comitia.orchestrator.run.*.v1.{TENANT}") as (_, ours),
    ):
        session = await start(replica)
        await eventually(lambda: any(event.kind == "succeeded" for event in events(ours, session.session_id)))
    assert theirs == []


async def test_the_events_of_a_tenant_go_with_it_and_those_of_others_stay(house: House, replica: Replica) -> None:
    async with listening(house.nats, f"comitia.orchestrator.run.*.v1.{TENANT}") as (listener, heard):
        session = await start(replica)
        await eventually(lambda: any(event.kind == "succeeded" for event in events(heard, session.session_id)))
        subject = f"comitia.orchestrator.run.started.v1.{NOBODY_ELSES}"
        await listener.publish(subject, b"", msg_id=SystemIds().new("run"))
        erase = EraseRunEvents(listener)
        assert (await erase.plan(TENANT)).count >= 6
        assert (await erase.erase(TENANT)).count >= 6
        assert (await erase.plan(TENANT)).count == 0
        assert (await erase.plan(NOBODY_ELSES)).count == 1


async def test_a_session_goes_on_without_nats_and_its_events_come_once_it_is_back(
    house: House, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    config = tmp_path / "nats.conf"
    store = tmp_path_factory.mktemp("jetstream")
    config.write_text(
        f'listen: 127.0.0.1:{port}\nauthorization {{ token: "t" }}\njetstream {{ store_dir: "{store}" }}\n'
    )
    alone = replace(house, nats=NatsServer(url=f"nats://127.0.0.1:{port}", token="t"))
    async with AsyncExitStack() as stack:
        with RunNats(config, port):
            replica = await alone.replica(stack)
        session = await start(replica)
        await until(replica, session.session_id, SUCCEEDED)
        with RunNats(config, port):
            async with listening(alone.nats, f"comitia.orchestrator.run.*.v1.{TENANT}") as (_, heard):
                await eventually(lambda: any(event.kind == "succeeded" for event in events(heard, session.session_id)))
            assert len(events(heard, session.session_id)) == 6
            await stack.aclose()
