"""Batch streams between two services: every item has its own identity, deadline and answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import budget_service_pb2_grpc as rpc
from comitia.cost.v1.cost_pb2 import Hold
from comitia.guard_table import GUARDS
from services.meshkit.batching import stream_session
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.batching.frames import MAX_FRAME_ITEMS
from services.meshkit.batching.serve_batch import serve_batch, serve_items
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import (
    ErrorKind,
    Exhausted,
    MeshError,
    NotFound,
    Precondition,
    Unavailable,
)
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.call import caller_of, seconds_left
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.grpc.server import Server, serve
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope
from services.meshkit.testing.local_server import LocalServer, local_server

Request = pb.BatchSpendRequest.Item
Answer = pb.BatchSpendResponse.Item
Spend = Coalescer[Request, Answer]


@dataclass
class Ledger(rpc.BudgetServiceServicer):
    """Does what the id of the hold says; `by_item` chooses how the stream is served."""

    by_item: bool = False
    together: int = MAX_FRAME_ITEMS
    frames: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def BatchSpend(
        self, request_iterator: AsyncIterator[pb.BatchSpendRequest], context: Any
    ) -> AsyncIterator[pb.BatchSpendResponse]:
        if self.by_item:
            stream = serve_items(request_iterator, self.mark, answers=pb.BatchSpendResponse)
        else:
            stream = serve_batch(
                request_iterator, self.mark_many, answers=pb.BatchSpendResponse, together=self.together
            )
        async for frame in stream:
            yield frame

    async def mark_many(self, items: Sequence[BatchItem[Request]]) -> Sequence[Answer | MeshError]:
        self.frames.append(len(items))
        if any(item.message.mark_dispatched.hold_id == "break" for item in items):
            raise ZeroDivisionError("the secret is 42")
        outcomes: list[Answer | MeshError] = []
        for item in items:
            try:
                outcomes.append(await self.mark(item))
            except MeshError as error:
                outcomes.append(error)
        return outcomes

    async def mark(self, item: BatchItem[Request]) -> Answer:
        hold = item.message.mark_dispatched.hold_id
        self.seen.append(hold)
        match hold.partition(":")[0]:
            case "absent":
                raise NotFound("hold", hold)
            case "settled":
                raise Precondition("the hold is settled")
            case "wait":
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(hold)
                    raise
            case "explode":
                raise ZeroDivisionError("the secret is 42")
            case "pieces":
                for piece in ("one", "two"):
                    item.show(Answer(hold=Hold(hold_id=piece)))
                await self.gate.wait()
            case "large":
                hold += "x" * (3 << 20)
            case _:
                pass
        answer = Answer()
        answer.hold.hold_id = f"{hold} for {item.principal.subject}"
        return answer


@asynccontextmanager
async def spending(folder: Path, ledger: Ledger, **options: Any) -> AsyncIterator[tuple[LocalServer, Spend]]:
    register = partial(rpc.add_BudgetServiceServicer_to_server, ledger)
    async with (
        local_server(register, guards=GUARDS, folder=folder, name="cost") as server,
        coalescer(server, **options) as spend,
    ):
        yield server, spend


@asynccontextmanager
async def coalescer(server: LocalServer, **options: Any) -> AsyncIterator[Spend]:
    stub = rpc.BudgetServiceStub(server.channel)
    async with Coalescer(
        stub.BatchSpend,
        frame=pb.BatchSpendRequest,
        name="cost",
        clock=SystemClock(),
        random=Random(1),
        **options,
    ) as spend:
        yield spend


def mark(hold_id: str) -> Request:
    return Request(mark_dispatched=pb.MarkDispatchedRequest(hold_id=hold_id))


async def outcome(spend: Spend, hold_id: str, principal: Principal, **options: Any) -> str | MeshError:
    try:
        return (await spend.call(mark(hold_id), principal=principal, **options)).hold.hold_id
    except MeshError as error:
        return error


@pytest.fixture(autouse=True, scope="module")
def _logs() -> None:
    # As in a service; unconfigured, structlog paints every stack with its locals, which takes seconds.
    setup_logs("error")


@pytest.fixture
def ledger() -> Ledger:
    return make_ledger()


def make_ledger(**options: Any) -> Ledger:
    return Ledger(**options)  # pyright: ignore[reportAbstractUsage]  # tests serve the one RPC they need


async def test_a_call_that_comes_alone_is_answered_alone(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        assert await outcome(spend, "hold_1", server.keys.principal()) == "hold_1 for key_test"
    assert ledger.frames == [1]


async def test_the_calls_of_one_tick_become_one_frame(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        answers = await asyncio.gather(*(outcome(spend, f"hold_{n}", principal) for n in range(100)))
    assert answers == [f"hold_{n} for key_test" for n in range(100)]
    assert ledger.frames == [100]


async def test_a_large_frame_is_parted_and_each_part_is_answered_on_its_own(tmp_path: Path) -> None:
    ledger = make_ledger(together=2)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        ids = ["wait", "hold_1", "hold_2", "hold_3", "hold_4"]
        asked = [asyncio.create_task(outcome(spend, name, principal)) for name in ids]
        assert await asyncio.gather(*asked[2:]) == [f"{name} for key_test" for name in ids[2:]]
        assert not any(one.done() for one in asked[:2])
        ledger.gate.set()
        assert await asyncio.gather(*asked[:2]) == [f"{name} for key_test" for name in ids[:2]]
    assert ledger.frames == [2, 2, 1]


async def test_more_calls_than_fit_become_several_frames(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        answers = await asyncio.gather(*(outcome(spend, f"hold_{n}", principal) for n in range(1100)))
    assert answers == [f"hold_{n} for key_test" for n in range(1100)]
    assert max(ledger.frames) <= 512


@pytest.mark.parametrize("by_item", [False, True])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bad_item_never_fails_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, by_item: bool, data: st.DataObject
) -> None:
    kinds = ["good", "absent", "settled", "expired", "stranger", "late", *(["explode"] if by_item else [])]
    wanted = data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=40))
    reasons = {
        "absent": "NOT_FOUND",
        "settled": "FAILED_PRECONDITION",
        "expired": "TOKEN_EXPIRED",
        "stranger": "TOKEN_INVALID",
        "late": "DEADLINE_EXCEEDED",
        "explode": "INTERNAL",
    }

    async def run() -> list[str | MeshError]:
        folder = tmp_path_factory.mktemp("keys")
        async with spending(folder, make_ledger(by_item=by_item)) as (server, spend):
            good = server.keys.principal()
            who = {
                "expired": server.keys.principal(life=timedelta(seconds=-60)),
                "stranger": replace(good, token=Secret("a.b.c")),
            }
            return await asyncio.gather(
                *(
                    outcome(
                        spend,
                        f"{kind}:{n}",
                        who.get(kind, good),
                        timeout_seconds=-1.0 if kind == "late" else 20.0,
                    )
                    for n, kind in enumerate(wanted)
                )
            )

    for n, (kind, got) in enumerate(zip(wanted, asyncio.run(run()), strict=True)):
        if kind == "good":
            assert got == f"good:{n} for key_test"
        else:
            assert isinstance(got, MeshError)
            assert got.reason == reasons[kind]
            assert "secret" not in got.message


async def test_a_handler_that_breaks_fails_its_frame_and_not_the_stream(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        broken = await outcome(spend, "break", principal)
        assert isinstance(broken, MeshError)
        assert (broken.kind, len(broken.metadata["incident_id"])) == (ErrorKind.INTERNAL, 32)
        assert await outcome(spend, "hold_1", principal) == "hold_1 for key_test"


async def test_each_item_speaks_for_its_own_principal(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        people = [server.keys.principal(subject=f"key_{n}") for n in range(300)]
        answers = await asyncio.gather(*(outcome(spend, "hold", person) for person in people))
    assert answers == [f"hold for key_{n}" for n in range(300)]


async def test_each_item_goes_on_in_its_own_trace_with_the_flag_that_its_sender_set(tmp_path: Path) -> None:
    went_on: list[tuple[str, str]] = []

    class Traced(Ledger):
        async def mark(self, item: BatchItem[Request]) -> Answer:
            went_on.append((item.traceparent, current_scope().traceparent))
            return Answer()

    traces = [f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00", ""]
    traced: Any = Traced(by_item=True)  # pyright: ignore[reportAbstractUsage]  # tests serve the one RPC they need
    async with spending(tmp_path, traced) as (server, spend):

        async def asked(traceparent: str) -> None:
            enter_scope(Scope(service="inference", traceparent=traceparent))
            await outcome(spend, "hold", server.keys.principal())

        await asyncio.gather(*(asked(traceparent) for traceparent in (*traces, "00-no-trace-01")))
    assert went_on == [(traceparent, traceparent) for traceparent in (*traces, "")]


async def test_an_item_needs_the_permission_of_the_rpc(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        refused, answered = await asyncio.gather(
            outcome(spend, "hold_1", server.keys.principal(Role.AUDITOR)),
            outcome(spend, "hold_2", server.keys.principal()),
        )
    assert isinstance(refused, MeshError)
    assert refused.reason == "PERMISSION_MISSING"
    assert (answered, ledger.seen) == ("hold_2 for key_test", ["hold_2"])


async def test_a_cancelled_caller_takes_its_item_back(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        waiting = asyncio.create_task(outcome(spend, "wait:1", principal))
        neighbour = asyncio.create_task(outcome(spend, "wait:2", principal))
        await until(lambda: len(ledger.seen) == 2)
        waiting.cancel()
        await until(lambda: ledger.cancelled == ["wait:1"])
        ledger.gate.set()
        assert await neighbour == "wait:2 for key_test"


async def test_pieces_of_an_answer_come_in_order_and_before_its_end(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        got: list[str] = []
        async for answer in spend.stream(mark("pieces:1"), principal=principal):
            got.append(answer.hold.hold_id)
            if got == ["one", "two"]:
                assert await outcome(spend, "hold_2", principal) == "hold_2 for key_test", "others go on meanwhile"
                ledger.gate.set()
        assert got == ["one", "two", "pieces:1 for key_test"]
        assert await outcome(spend, "pieces:2", principal) == "pieces:2 for key_test", "who calls gets the end only"


async def test_who_closes_a_stream_of_pieces_takes_its_item_back(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        async with aclosing(spend.stream(mark("wait:1"), principal=principal)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await until(lambda: ledger.seen == ["wait:1"])
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
        await until(lambda: ledger.cancelled == ["wait:1"])
        async with aclosing(spend.stream(mark("pieces:1"), principal=principal)) as answers:
            assert (await anext(answers)).hold.hold_id == "one"
        ledger.gate.set()
        assert await outcome(spend, "hold_2", principal) == "hold_2 for key_test"


async def test_pieces_end_with_the_error_of_their_item(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        await outcome(spend, "hold_1", principal)  # so that the time is not that of connecting
        answers = spend.stream(mark("pieces:1"), principal=principal, timeout_seconds=1.0)
        assert [(await anext(answers)).hold.hold_id, (await anext(answers)).hold.hold_id] == ["one", "two"]
        with pytest.raises(MeshError) as raised:
            await anext(answers)
    assert raised.value.kind is ErrorKind.DEADLINE


async def test_what_an_item_asks_of_others_ends_with_its_own_time(tmp_path: Path) -> None:
    left: list[float | None] = []

    class Timed(Ledger):
        async def mark(self, item: BatchItem[Request]) -> Answer:
            left.append(seconds_left())
            assert caller_of(None) == item.caller
            return Answer()

    timed: Any = Timed(by_item=True)  # pyright: ignore[reportAbstractUsage]  # tests serve the one RPC they need
    async with spending(tmp_path, timed) as (server, spend):
        await spend.call(mark("hold_1"), principal=server.keys.principal(), timeout_seconds=7.0)
        await spend.call(mark("hold_1"), principal=server.keys.principal(), timeout_seconds=3600.0)
    short, long = left
    assert short is not None
    assert long is not None
    assert 0 < short <= 7 < long <= 30


async def test_a_deadline_ends_the_wait_of_its_item_only(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        neighbour = asyncio.create_task(outcome(spend, "wait:2", principal))
        await until(lambda: ledger.seen == ["wait:2"])
        late = await outcome(spend, "wait:1", principal, timeout_seconds=0.5)
        assert isinstance(late, MeshError)
        assert late.kind is ErrorKind.DEADLINE
        await until(lambda: "wait:1" in ledger.cancelled)
        ledger.gate.set()
        assert await neighbour == "wait:2 for key_test"


class Silent:
    """A stream whose server says nothing."""

    async def write(self, frame: pb.BatchSpendRequest) -> None: ...

    def cancel(self) -> None: ...

    async def __aiter__(self) -> AsyncIterator[pb.BatchSpendResponse]:
        await asyncio.Event().wait()
        yield pb.BatchSpendResponse()


async def test_each_call_waits_as_long_as_it_may_for_a_server_that_says_nothing() -> None:
    principal = Principal(tenant=TenantId(UUID(int=1)), subject="key_test", roles=frozenset(), token=Secret("signed"))
    silent = Coalescer[Request, Answer](
        Silent, frame=pb.BatchSpendRequest, name="cost", clock=SystemClock(), random=Random(1)
    )
    ended: list[str] = []

    async def waits(name: str, seconds: float) -> None:
        late = await outcome(silent, name, principal, timeout_seconds=seconds)
        assert isinstance(late, MeshError)
        ended.append(f"{name}: {late.kind.value}")

    async with silent:
        tasks = [asyncio.create_task(waits(name, seconds)) for name, seconds in (("hour", 3600), ("b", 0.2), ("a", 0))]
        await until(lambda: len(ended) == 2)
        tasks.append(asyncio.create_task(waits("c", 0.01)))
        await until(lambda: len(ended) == 3)
    await asyncio.gather(*tasks)
    assert ended == ["a: deadline", "b: deadline", "c: deadline", "hour: unavailable"]


async def test_an_answer_that_fits_no_frame_fails_its_item_only(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        large, small = await asyncio.gather(outcome(spend, "large", principal), outcome(spend, "hold_1", principal))
    assert isinstance(large, MeshError)
    assert (large.reason, small) == ("ANSWER_TOO_LARGE", "hold_1 for key_test")


async def test_a_request_that_fits_no_frame_is_refused_at_the_door(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        with pytest.raises(Exhausted) as raised:
            await spend.call(mark("x" * (3 << 20)), principal=server.keys.principal())
    assert raised.value.reason == "ITEM_TOO_LARGE"


async def test_large_requests_travel_in_several_frames(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        principal = server.keys.principal()
        holds = [f"{n}" + "x" * 900_000 for n in range(6)]
        assert await asyncio.gather(*(outcome(spend, hold, principal) for hold in holds)) == [
            f"{hold} for key_test" for hold in holds
        ]
    assert ledger.frames == [2, 2, 2]


async def test_a_full_queue_refuses_one_more(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger, max_waiting=3) as (server, spend):
        principal = server.keys.principal()
        waiting = [asyncio.create_task(outcome(spend, f"wait:{n}", principal)) for n in range(3)]
        await until(lambda: len(ledger.seen) == 3)
        refused = await outcome(spend, "hold_4", principal)
        ledger.gate.set()
        assert await asyncio.gather(*waiting) == [f"wait:{n} for key_test" for n in range(3)]
    assert isinstance(refused, MeshError)
    assert refused.reason == "QUEUE_FULL"


async def test_old_streams_are_replaced_and_nothing_is_lost(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger, stream_seconds=0.02, streams=2) as (server, spend):
        principal = server.keys.principal()
        for n in range(30):
            answers = await asyncio.gather(*(outcome(spend, f"{n}:{m}", principal) for m in range(5)))
            assert answers == [f"{n}:{m} for key_test" for m in range(5)]
            await asyncio.sleep(0.005)


async def test_a_service_that_is_down_is_said_at_once_and_found_again(tmp_path: Path, ledger: Ledger) -> None:
    register = partial(rpc.add_BudgetServiceServicer_to_server, ledger)
    async with local_server(register, guards=GUARDS, folder=tmp_path, name="cost") as server:
        port, keys = server.running.port, server.keys
    async with (
        channel(f"127.0.0.1:{port}", identity=keys.workload("inference")) as opened,
        coalescer(replace(server, channel=opened)) as spend,
    ):
        down = await outcome(spend, "hold_1", keys.principal())
        assert isinstance(down, MeshError)
        assert down.kind is ErrorKind.UNAVAILABLE
        again = Server(
            name="cost", listen=f"127.0.0.1:{port}", registrations=[register], admission=keys.admission(GUARDS)
        )
        async with serve(again), asyncio.timeout(10):
            while isinstance(await outcome(spend, "hold_1", keys.principal()), MeshError):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_draining_server_answers_what_it_has_read(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        waiting = asyncio.create_task(outcome(spend, "wait:1", server.keys.principal()))
        await until(lambda: ledger.seen == ["wait:1"])
        server.running.drain.begin()
        await asyncio.sleep(0.05)
        ledger.gate.set()
        assert await waiting == "wait:1 for key_test"


async def test_a_server_that_stops_asks_its_client_to_end_and_answers_until_then(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with spending(tmp_path, ledger) as (server, _):
        stream, send = raw_stream(server)
        await send("hold_1")
        assert (await stream.read()).items[0].hold.hold_id == "hold_1 for key_test"
        server.running.drain.begin()
        notice = await stream.read()
        assert (notice.leaving, len(notice.items)) == (True, 0)
        await send("hold_2")
        assert (await stream.read()).items[0].hold.hold_id == "hold_2 for key_test"
        await stream.done_writing()
        assert not await stream.read()
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_client_that_goes_on_writing_to_a_server_that_stops_is_left(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_session, "_LEAVING_SECONDS", 0.05)
    async with spending(tmp_path, ledger) as (server, _):
        stream, send = raw_stream(server)
        await send("hold_1")
        await stream.read()
        server.running.drain.begin()
        assert (await stream.read()).leaving
        assert not await stream.read()


async def test_no_call_is_lost_on_streams_that_are_left_as_soon_as_they_open(tmp_path: Path, ledger: Ledger) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        server.running.drain.begin()
        principal = server.keys.principal()
        for n in range(40):
            answers = await asyncio.gather(*(outcome(spend, f"{n}:{m}", principal) for m in range(5)))
            assert answers == [f"{n}:{m} for key_test" for m in range(5)]
    assert len(ledger.seen) == 200


def raw_stream(server: LocalServer) -> tuple[Any, Callable[[str], Awaitable[None]]]:
    """Opens a stream without a coalescer, and gives what sends an item on it."""
    principal = server.keys.principal()
    stream: Any = rpc.BudgetServiceStub(server.channel).BatchSpend(metadata=call_metadata(principal))
    numbers = count(1)

    async def send(hold_id: str) -> None:
        frame = pb.BatchSpendRequest(items=[mark(hold_id)])
        frame.items[0].header.item_id = next(numbers)
        if frame.items[0].header.item_id == 1:
            frame.identities.access_tokens.append(principal.token.reveal())
        await stream.write(frame)

    return stream, send


async def test_a_closed_coalescer_answers_who_still_waits(tmp_path: Path) -> None:
    ledger = make_ledger(by_item=True)
    async with spending(tmp_path, ledger) as (server, spend):
        waiting = asyncio.create_task(outcome(spend, "wait:1", server.keys.principal()))
        await until(lambda: ledger.seen == ["wait:1"])
    assert isinstance(await waiting, Unavailable)
    assert isinstance(await outcome(spend, "hold_1", server.keys.principal()), Unavailable)


async def test_items_of_an_internal_stream_need_the_role_of_their_caller_and_no_scope(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with spending(tmp_path, ledger) as (server, spend):
        narrowed = server.keys.principal(Role.TENANT_USER, scopes=frozenset({"inference.generate"}))
        assert await outcome(spend, "hold_1", narrowed) == "hold_1 for key_test"
        refused = await outcome(spend, "hold_1", server.keys.principal(Role.AUDITOR))
        assert isinstance(refused, MeshError)
        assert refused.reason == "PERMISSION_MISSING"


async def test_an_item_that_names_no_known_identity_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    frame = pb.BatchSpendRequest(items=[mark("hold_1"), mark("hold_2")])
    frame.items[0].header.item_id, frame.items[0].header.identity_index = 1, 7
    frame.items[1].header.item_id = 2
    async with spending(tmp_path, ledger) as (server, _):
        frame.identities.access_tokens.append(server.keys.principal().token.reveal())
        answers = [a async for a in rpc.BudgetServiceStub(server.channel).BatchSpend(iter([frame]))]
    reasons = {item.status.item_id: item.status.HasField("error") for answer in answers for item in answer.items}
    assert reasons == {1: True, 2: False}


async def test_a_frame_beyond_its_bound_ends_the_stream_with_a_reason(tmp_path: Path, ledger: Ledger) -> None:
    frame = pb.BatchSpendRequest(items=[mark("hold_1")] * 513)
    async with spending(tmp_path, ledger) as (server, _):
        with pytest.raises(MeshError) as raised, remote_errors():
            async for _answer in rpc.BudgetServiceStub(server.channel).BatchSpend(iter([frame])):
                pass
    assert raised.value.reason == "FRAME_TOO_LARGE"


async def test_a_service_that_is_no_peer_opens_no_stream(tmp_path: Path, ledger: Ledger) -> None:
    async with (
        spending(tmp_path, ledger) as (server, _),
        channel(server.target, identity=server.keys.workload("gateway")) as opened,
    ):
        stream = rpc.BudgetServiceStub(opened).BatchSpend(metadata=call_metadata(server.keys.principal()))
        with pytest.raises(MeshError) as raised, remote_errors():
            async for _answer in stream:
                pass
    assert raised.value.reason == "PEER_NOT_ALLOWED"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # what it waits for happens in gRPC
            await asyncio.sleep(0.005)
