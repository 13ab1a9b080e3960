"""What was committed is published, once per id."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text

from services.meshkit.bus.bus import bus
from services.meshkit.bus.subjects import event_subject, service_stream
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.outbox import OutboxEntry, OutboxRelay, add_entries, outbox_lag, replay_parked
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from tests.integration.conftest import NatsServer
from tests.integration.meshkit.sql.conftest import Engines

ANNA = TenantId(UUID(int=1))
IDS = SystemIds()


class Recorder:
    """A publisher that remembers, and fails when told to."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.fail: Callable[[str], Exception | None] = lambda _subject: None

    async def publish(self, subject: str, body: bytes, *, msg_id: str) -> None:
        if (failure := self.fail(subject)) is not None:
            raise failure
        self.ids.append(msg_id)


async def _write(engines: Engines, *subjects: str, commit: bool = True) -> list[str]:
    entries = [OutboxEntry(id=IDS.uuid(), tenant=ANNA, subject=subject, body=b"x") for subject in subjects]
    async with tenant_scope(engines.app, ANNA) as scope:
        await add_entries(scope, entries)
        if commit:
            await scope.commit()
    return [str(entry.id) for entry in entries]


async def _left(engines: Engines) -> int:
    async with maintenance_scope(engines.maintenance) as scope:
        return int((await scope.execute(text("SELECT count(*) FROM outbox"))).scalar_one())


async def test_committed_entries_are_published_in_order_and_deleted(engines: Engines) -> None:
    recorder = Recorder()
    wanted = await _write(engines, *["a.b"] * 5)
    await _write(engines, "rolled.back", commit=False)
    assert await OutboxRelay(engines.maintenance, recorder).relay_once() == 5
    assert recorder.ids == wanted
    assert await _left(engines) == 0


async def test_a_crash_between_publish_and_delete_publishes_the_same_id_again(
    engines: Engines, nats_server: NatsServer
) -> None:
    service = f"svc{secrets.token_hex(4)}"
    stream = service_stream(service)
    await _write(engines, event_subject(service, "note", "added"))
    async with bus(nats_server.url, token=nats_server.token, streams=[stream]) as mesh:
        await asyncio.wait_for(mesh.wait_connected(), 10)

        class CrashAfterPublish:
            async def publish(self, subject: str, body: bytes, *, msg_id: str) -> None:
                await mesh.publish(subject, body, msg_id=msg_id)
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            await OutboxRelay(engines.maintenance, CrashAfterPublish()).relay_once()
        assert await _left(engines) == 1
        await OutboxRelay(engines.maintenance, mesh).relay_once()
        assert await _left(engines) == 0
        info = await mesh.jetstream().stream_info(stream.name)
        assert info.state.messages == 1


async def test_while_the_bus_is_away_nothing_is_lost_and_what_went_out_is_not_repeated(engines: Engines) -> None:
    recorder = Recorder()
    recorder.fail = lambda subject: Unavailable("nats") if subject == "b" else None
    wanted = await _write(engines, "a", "b", "c")
    relay = OutboxRelay(engines.maintenance, recorder)
    with pytest.raises(Unavailable):
        await relay.relay_once()
    assert await _left(engines) == 1
    recorder.fail = lambda _subject: None
    await relay.relay_once()
    assert sorted(recorder.ids) == sorted(wanted)


async def test_an_entry_that_can_never_go_is_parked_and_replayed(engines: Engines) -> None:
    recorder = Recorder()
    recorder.fail = lambda subject: Invalid("body", "is too large") if subject == "b" else None
    await _write(engines, "a", "b", "c")
    relay = OutboxRelay(engines.maintenance, recorder)
    await relay.relay_once()
    assert (len(recorder.ids), relay.parked, await relay.relay_once()) == (2, 1, 0)
    assert (await outbox_lag(engines.maintenance))[0] == 0
    recorder.fail = lambda _subject: None
    assert await replay_parked(engines.maintenance) == 1
    assert (await outbox_lag(engines.maintenance))[0] == 1
    await relay.relay_once()
    assert len(recorder.ids) == 3


async def test_two_relays_share_the_work(engines: Engines) -> None:
    recorder = Recorder()
    wanted = await _write(engines, *["a"] * 60)
    relays = [OutboxRelay(engines.maintenance, recorder, batch=10) for _ in range(2)]
    while await _left(engines):
        await asyncio.gather(*(relay.relay_once() for relay in relays))
    assert sorted(recorder.ids) == sorted(wanted)


async def test_a_woken_relay_publishes_at_once(engines: Engines) -> None:
    recorder = Recorder()
    relay = OutboxRelay(engines.maintenance, recorder, poll_seconds=60)
    running = asyncio.ensure_future(relay())
    await asyncio.sleep(0.1)
    await _write(engines, "a")
    relay.wake()
    async with asyncio.timeout(5):
        while not recorder.ids:  # noqa: ASYNC110  the recorder has no event
            await asyncio.sleep(0.005)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_requests_can_add_to_the_outbox_and_nothing_else(engines: Engines) -> None:
    for statement in ("SELECT * FROM outbox", "DELETE FROM outbox", "UPDATE outbox SET subject = 'x'"):
        with pytest.raises(Exception, match="permission denied"):
            async with tenant_scope(engines.app, ANNA) as scope:
                await scope.execute(text(statement))
