"""Durable and live messages on a real nats-server."""

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from services.meshkit.bus.bus import Bus, MessageTooLarge, SubjectUnknown, bus
from services.meshkit.bus.consumer import Consumer, Message, Poison
from services.meshkit.bus.dead_letter import dead_letters, replay
from services.meshkit.bus.subjects import StreamSpec, event_subject, live_subject, service_stream
from services.meshkit.core.errors import Unavailable
from tests.integration.conftest import NatsServer, RunNats, free_port


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the condition is the consumer's own counter
            await asyncio.sleep(0.01)


class Running:
    """Runs a consumer in the background for the length of a block."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def __aenter__(self) -> Consumer:
        self._task = asyncio.ensure_future(self._consumer())
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
def service() -> str:
    return f"svc{secrets.token_hex(4)}"


@pytest.fixture
def stream(service: str) -> StreamSpec:
    return service_stream(service)


@pytest.fixture
async def mesh(nats_server: NatsServer, stream: StreamSpec) -> AsyncIterator[Bus]:
    async with bus(nats_server.url, token=nats_server.token, streams=[stream]) as made:
        await asyncio.wait_for(made.wait_connected(), 10)
        yield made


async def test_a_message_is_handled_once_though_published_twice_with_one_id(
    mesh: Bus, stream: StreamSpec, service: str
) -> None:
    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)

    subject = event_subject(service, "tool", "approved")
    for body in (b"first", b"first"):
        await mesh.publish(subject, body, msg_id="one")
    await mesh.publish(subject, b"second", msg_id="two")
    async with Running(Consumer(mesh, stream, f"{service}-test", handle)):
        await until(lambda: len(seen) >= 2)
        await asyncio.sleep(0.1)
    assert [(message.msg_id, message.body) for message in seen] == [("one", b"first"), ("two", b"second")]


async def test_a_failed_message_comes_again(mesh: Bus, stream: StreamSpec, service: str) -> None:
    seen: list[int] = []

    async def handle(message: Message) -> None:
        seen.append(message.deliveries)
        if message.deliveries < 3:
            raise Unavailable("postgres")

    await mesh.publish(event_subject(service, "tool", "approved"), b"", msg_id="one")
    async with Running(Consumer(mesh, stream, f"{service}-test", handle, max_deliveries=2)) as consumer:
        await until(lambda: consumer.handled == 1)
    assert seen == [1, 2, 3]


async def test_a_message_that_keeps_failing_is_buried_with_its_reason_and_replayed(
    mesh: Bus, stream: StreamSpec, service: str
) -> None:
    repaired = False
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        if not repaired:
            raise ValueError("no such\ncolumn")
        seen.append(message.body)

    subject, durable = event_subject(service, "tool", "approved"), f"{service}-test"
    await mesh.publish(subject, b"hard", msg_id="one")
    async with Running(Consumer(mesh, stream, durable, handle, max_deliveries=2)) as consumer:
        await until(lambda: consumer.buried == 1)
        [letter] = [letter async for letter in dead_letters(mesh, durable)]
        assert (letter.subject, letter.body, letter.msg_id) == (subject, b"hard", "one")
        assert letter.reason == "ValueError: no such column"
        repaired = True
        assert await replay(mesh, durable) == 1
        await until(lambda: seen == [b"hard"])
    assert [letter async for letter in dead_letters(mesh, durable)] == []


async def test_poison_is_buried_at_once_and_its_neighbours_are_handled(
    mesh: Bus, stream: StreamSpec, service: str
) -> None:
    async def handle(message: Message) -> None:
        if message.body == b"poison":
            raise Poison("no such event")

    for number, body in enumerate((b"a", b"poison", b"b")):
        await mesh.publish(event_subject(service, "tool", "approved"), body, msg_id=str(number))
    async with Running(Consumer(mesh, stream, f"{service}-test", handle)) as consumer:
        await until(lambda: (consumer.handled, consumer.buried) == (2, 1))


async def test_a_replayed_message_reaches_only_the_consumer_that_buried_it(
    mesh: Bus, stream: StreamSpec, service: str
) -> None:
    repaired = False
    other: list[str] = []

    async def fragile(_message: Message) -> None:
        if not repaired:
            raise Poison("not yet")

    async def steady(message: Message) -> None:
        other.append(message.msg_id)

    await mesh.publish(event_subject(service, "tool", "approved"), b"", msg_id="one")
    async with (
        Running(Consumer(mesh, stream, f"{service}-fragile", fragile)) as one,
        Running(Consumer(mesh, stream, f"{service}-steady", steady)),
    ):
        await until(lambda: one.buried == 1 and other == ["one"])
        repaired = True
        await replay(mesh, f"{service}-fragile")
        await until(lambda: one.handled == 1)
        await asyncio.sleep(0.1)
    assert other == ["one"]


async def test_slow_work_is_extended_and_not_delivered_twice(mesh: Bus, stream: StreamSpec, service: str) -> None:
    seen: list[int] = []

    async def handle(message: Message) -> None:
        seen.append(message.deliveries)
        await asyncio.sleep(2.5)

    await mesh.publish(event_subject(service, "tool", "approved"), b"", msg_id="one")
    # Long enough that a machine that has more to do than it can extends it in time.
    async with Running(Consumer(mesh, stream, f"{service}-test", handle, ack_seconds=1.5)) as consumer:
        await until(lambda: consumer.handled == 1)
        await asyncio.sleep(0.7)
    assert seen == [1]


async def test_a_stream_is_adapted_when_its_declaration_changed(nats_server: NatsServer, service: str) -> None:
    for size in (1_000_000, 2_000_000):
        spec = StreamSpec(name=f"T_{service}", subjects=(f"comitia.{service}.>",), max_bytes=size)
        async with bus(nats_server.url, token=nats_server.token, streams=[spec]) as made:
            await asyncio.wait_for(made.wait_connected(), 10)
            info = await made.jetstream().stream_info(spec.name)
            assert info.config.max_bytes == size


async def test_a_subject_without_a_stream_and_a_message_too_large_are_refused(mesh: Bus, service: str) -> None:
    with pytest.raises(SubjectUnknown):
        await mesh.publish("comitia.nobody.noun.event.v1", b"", msg_id="one")
    with pytest.raises(MessageTooLarge):
        await mesh.publish(event_subject(service, "tool", "approved"), bytes(5_000_000), msg_id="one")


async def test_a_slow_reader_of_live_messages_loses_the_oldest(mesh: Bus) -> None:
    subject = live_subject("orchestrator", "turn", "delta", key=secrets.token_hex(4))
    async with mesh.subscribe_live(subject, most=3) as listening:
        for number in range(10):
            assert await mesh.publish_live(subject, b"%d" % number)
        await until(lambda: listening.dropped == 7)
        assert [(await anext(listening)).body for _ in range(3)] == [b"7", b"8", b"9"]


async def test_of_a_group_one_member_gets_a_live_message(mesh: Bus) -> None:
    subject = live_subject("orchestrator", "shard", "wake", key=secrets.token_hex(4))
    async with (
        mesh.subscribe_live(subject, group="g") as one,
        mesh.subscribe_live(subject, group="g") as two,
        mesh.subscribe_live(subject) as everyone,
    ):
        await mesh.publish_live(subject, b"wake")
        assert (await asyncio.wait_for(anext(everyone), 5)).body == b"wake"
        await asyncio.sleep(0.1)
        one.close()
        two.close()
        assert len([m async for m in one]) + len([m async for m in two]) == 1


async def test_a_wrong_token_never_connects_and_nothing_fails(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, token="wrong") as made:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.wait_connected(), 0.7)
        assert not await made.publish_live("comitia.live.x.y.z.v1", b"")


async def test_a_service_starts_without_nats_and_survives_its_loss(service: str, stream: StreamSpec) -> None:
    """Also INV-5: an emptied NATS costs time only; streams, consumers and subscriptions come back."""
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)

    port = free_port()
    subject, live = event_subject(service, "tool", "approved"), live_subject(service, "a", "b")
    with tempfile.TemporaryDirectory() as folder:

        def config(number: int) -> Path:
            file = Path(folder, f"{number}.conf")
            file.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/store{number}" }}\n')
            return file

        async with (
            bus(f"nats://127.0.0.1:{port}", streams=[stream]) as made,
            made.subscribe_live(live) as listening,
            Running(Consumer(made, stream, f"{service}-test", handle)),
        ):
            with pytest.raises(Unavailable):
                await made.publish(subject, b"early", msg_id="0")
            assert not await made.publish_live(live, b"early")
            for number in (1, 2):
                with RunNats(config(number), port):
                    await _publish_soon(made, subject, b"%d" % number)
                    await until(lambda wanted=number: len(seen) == wanted)
                    assert await made.publish_live(live, b"%d" % number)
                    assert (await asyncio.wait_for(anext(listening), 5)).body == b"%d" % number
                await until(lambda: not made.connected)
    assert seen == [b"1", b"2"]


async def _publish_soon(mesh: Bus, subject: str, body: bytes) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            await mesh.publish(subject, body, msg_id=body.decode())
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return
