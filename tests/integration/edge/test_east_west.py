"""The east-west listener: a real Envoy between services inside the test, two replicas of cost behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
import pytest
import pytest_asyncio
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.launcher.envoy_pod import Envoy
from services.launcher.ports import PREFERRED
from services.launcher.services import CALLS, SERVICES
from services.meshkit.core.errors import ErrorKind, Unavailable
from services.meshkit.grpc.channel import REPEATABLE, bare_channel, call_metadata, channel
from services.meshkit.grpc.forwarded_certificate import FORWARDED_CERTIFICATE
from services.meshkit.grpc.tls import EAST_WEST, certified_name
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.authority import Authority
from tests.support.east_west import RESERVE, Room, running_room, until
from tests.support.edge import asked
from tests.support.envoy_series import ENVOY_SERIES, matches, selectors, shown
from tests.support.everything import refusal
from tests.support.public_rpcs import INTERNAL, PUBLIC

#: A batch stream of it.
BATCH: Final = next(rpc for rpc in INTERNAL if rpc.path.startswith("/comitia.cost.") and rpc.method.client_streaming)
LIST_AGENTS: Final = next(rpc for rpc in PUBLIC if rpc.name == "AgentService/ListAgents")
#: What a caller who wants to be the orchestrator would write.
FORGED: Final = f"Hash={'0' * 64};DNS=orchestrator.comitia"


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with running_room(tmp_path) as running:
        yield running


async def test_the_callee_knows_who_calls(room: Room) -> None:
    """A permission that only certain services have is had by those, and by nobody else."""
    async with room.through("inference") as opened:
        assert await room.reason(opened) == ""
    assert {replica.peer for replica in room.replicas if replica.calls} == {"inference"}
    async with room.through("gateway") as opened:
        assert await room.reason(opened) == "PEER_NOT_ALLOWED"
    # An assertion that was taken along is worth nothing here either.
    async with room.through("inference", certificate_of="tools") as opened:
        assert await room.reason(opened) == "PEER_NOT_ALLOWED"
        assert await room.reason(opened, rpc=LIST_AGENTS) == "PEER_NOT_ALLOWED"


async def test_a_real_envoy_shows_what_its_board_asks_for(room: Room) -> None:
    async with room.through("inference", idempotent=(RESERVE.path,)) as opened:
        assert await room.reason(opened) == ""
    async with aiohttp.request("GET", f"http://{room.admin}/stats/prometheus") as answer:
        found = shown(await answer.text())
    assert [one for one in selectors() if not any(matches(one, series) for series in found)] == []
    labels = {name: frozenset(one) for name, one in found}
    assert {name: labels.get(name) for name in ENVOY_SERIES} == ENVOY_SERIES
    assert await room.figure("upstream_rq_total", cluster="cost-repeatable") == 1


async def test_every_internal_rpc_is_open_to_its_peers_alone(room: Room) -> None:
    wrong: list[str] = []
    for service in (one for one in SERVICES if "cost" in CALLS[one]):
        async with room.through(service) as opened:
            for rpc in INTERNAL:
                refused = await room.reason(opened, rpc=rpc)
                if refused != ("" if service in rpc.guard.peers else "PEER_NOT_ALLOWED"):
                    wrong.append(f"{service} -> {rpc.name}: {refused or 'let in'}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reaches_its_neighbours_and_no_other(room: Room, service: str) -> None:
    """As the NetworkPolicies have it where calls go directly; here in front of each neighbour, open RPCs among them."""
    for neighbour in SERVICES:
        target = f"{neighbour}:{PREFERRED[neighbour]}"
        async with bare_channel(target, tls=room.tls(service), options=()) as opened:
            make: Any = health_pb2_grpc.HealthStub
            call: Any = make(opened).Check(health_pb2.HealthCheckRequest(), timeout=5)
            code = await call.code()
        # Behind all but cost stands nobody.
        reached = grpc.StatusCode.OK if neighbour == "cost" else grpc.StatusCode.UNAVAILABLE
        expected = reached if neighbour in CALLS[service] else grpc.StatusCode.PERMISSION_DENIED
        assert code is expected, (service, neighbour)
    log = room.folder / "east_west.log"
    refused = {f"{name}.comitia" for name in SERVICES if name not in CALLS[service]}

    async def logged() -> bool:
        lines = [json.loads(line) for line in log.read_text().splitlines() if "rbac_access_denied" in line]
        return {line["service"] for line in lines if line["caller"] == f"{service}.comitia"} == refused

    await until(logged)


@pytest.mark.parametrize("forged", [FORGED, f"{FORGED},{FORGED}", f"{FORGED};DNS=tools.comitia", "DNS=", ""])
async def test_what_a_caller_writes_of_certificates_changes_nothing(room: Room, forged: str) -> None:
    """Through the listener, which takes it away, and past it, where nobody reads it."""
    orchestrators = next(
        rpc
        for rpc in INTERNAL
        if rpc.path.startswith("/comitia.cost.") and rpc.guard.peers == frozenset({"orchestrator"})
    )
    for east_west in (True, False):
        stolen = room.identity("orchestrator", certificate_of="tools", east_west=east_west)
        target = "cost:7407" if east_west else room.direct[0]
        async with channel(target, identity=stolen, service="" if east_west else "cost") as opened:
            assert await room.reason(opened, rpc=orchestrators, forged=forged) == "PEER_NOT_ALLOWED"
        own = room.identity("orchestrator", east_west=east_west)
        async with channel(target, identity=own, service="" if east_west else "cost") as opened:
            assert await room.reason(opened, rpc=orchestrators, forged=forged) == ""
    [told] = [value for key, value in room.replicas[0].metadata if key == FORWARDED_CERTIFICATE] or [forged]
    assert told == forged


async def test_one_who_shows_the_listeners_certificate_and_tells_no_single_name_is_nobody(room: Room) -> None:
    """As whoever has taken the certificate of the listener, and an assertion, along."""
    tls = room.tls(EAST_WEST, east_west=False)
    assertion = ("comitia-workload", room.identity("inference").assertion())
    token = call_metadata(room.keys.principal())
    name = f"Hash={'0' * 64};DNS=inference.comitia"
    async with bare_channel(room.direct[0], tls=tls, options=(), service="cost") as opened:
        for told in ((), (name, name), (f"{name},{name}",), (f"{name};DNS=tools.comitia",), (name.upper(),)):
            headers = (*token, assertion, *((FORWARDED_CERTIFICATE, one) for one in told))
            refused = await refusal(RESERVE, opened, headers)
            assert refused is not None, told
            assert refused.reason == "PEER_NOT_ALLOWED"


@pytest.mark.parametrize("who", ["a stranger", "the edge", "the launcher", "nobody", "plain text"])
async def test_who_is_none_of_the_seven_gets_no_connection(room: Room, who: str) -> None:
    names = [("grpc.ssl_target_name_override", certified_name(EAST_WEST)), ("grpc.default_authority", "cost.comitia")]
    match who:
        case "a stranger":
            opened = bare_channel("cost:7407", tls=room.tls("tools", authority=Authority("stranger")), options=())
        case "the edge" | "the launcher":
            opened = bare_channel("cost:7407", tls=room.tls(who.removeprefix("the ")), options=())
        case "nobody":
            credentials = grpc.ssl_channel_credentials(room.authority.pem)
            opened = grpc.aio.secure_channel(room.address, credentials, options=names)
        case _:
            opened = grpc.aio.insecure_channel(room.address, options=names[1:])
    async with opened as bare:
        refused = await refusal(LIST_AGENTS, bare, call_metadata(room.keys.principal()))
    assert refused is not None
    assert refused.kind is ErrorKind.UNAVAILABLE
    assert room.calls == [0, 0]


async def test_batch_streams_spread_over_replicas_and_stay_open(room: Room) -> None:
    for replica in room.replicas:
        replica.goes_on.clear()
    async with room.through("inference") as opened:
        token = call_metadata(room.keys.principal())
        start: Any = opened.stream_stream(BATCH.path, response_deserializer=BATCH.response_class.FromString)
        calls: list[Any] = []
        for count in range(1, 7):
            call = start(metadata=token)
            calls.append(call)
            assert isinstance(await call.read(), BATCH.response_class)
            assert sum(replica.streams for replica in room.replicas) == count
        assert [replica.streams for replica in room.replicas] == [3, 3]
        for replica in room.replicas:
            replica.goes_on.set()
        assert all([isinstance(await call.read(), BATCH.response_class) for call in calls])
        assert [await call.code() for call in calls] == [grpc.StatusCode.OK] * len(calls)


async def test_what_may_be_repeated_is_repeated_by_the_listener_alone(room: Room) -> None:
    """Four attempts in all: were the channel to try four times too, there would be sixteen."""
    for replica in room.replicas:
        replica.refuses = Unavailable("the ledger")
    async with room.through("inference", idempotent=(RESERVE.path,)) as opened:
        assert await room.reason(opened) == "UNAVAILABLE"
        assert sum(room.calls) == 4
        assert REPEATABLE not in dict(room.replicas[0].metadata)
        room.replicas[1].refuses = None
        assert await room.reason(opened) == ""
    async with room.through("inference") as opened:
        before = sum(room.calls)
        room.replicas[1].refuses = Unavailable("the ledger")
        assert await room.reason(opened) == "UNAVAILABLE"
        assert sum(room.calls) == before + 1


async def test_a_repeat_goes_to_the_other_replica_however_busy_that_one_is(room: Room) -> None:
    """Whoever refuses at once has the fewest calls, so by these alone it would be chosen again and again."""
    failing, busy = room.replicas
    for replica in room.replicas:
        replica.goes_on.clear()
    async with room.through("inference", idempotent=(RESERVE.path,)) as opened:
        token = call_metadata(room.keys.principal())
        start: Any = opened.stream_stream(BATCH.path, response_deserializer=BATCH.response_class.FromString)
        streams: list[Any] = []
        for _ in range(4):
            streams.append(start(metadata=token))
            assert isinstance(await streams[-1].read(), BATCH.response_class)
        failing.goes_on.set()

        async def idle() -> bool:
            return (failing.streams, busy.streams) == (0, 2)

        await until(idle)
        failing.refuses = Unavailable("the ledger")
        busy.answers.clear()
        before = busy.calls
        calls = [asyncio.create_task(room.reason(opened)) for _ in range(6)]

        async def there() -> bool:
            return busy.calls == before + len(calls) or any(call.done() for call in calls)

        await until(there)
        busy.answers.set()
        assert [await call for call in calls] == [""] * len(calls)
        assert failing.calls
        for call in streams:
            call.cancel()


async def test_a_replica_that_dies_costs_a_call_that_may_not_be_repeated_and_no_other(room: Room) -> None:
    for replica in room.replicas:
        replica.answers.clear()
    async with room.through("inference") as once, room.through("tools", idempotent=(RESERVE.path,)) as twice:
        waiting: list[asyncio.Task[str]] = []
        for opened in (once, once, twice, twice):
            waiting.append(asyncio.create_task(room.reason(opened)))

            async def there() -> bool:
                return sum(room.calls) == len(waiting)

            await until(there)
        # One after the other: each replica has one of either kind.
        assert room.calls == [2, 2]
        room.wires[0].cut()
        for replica in room.replicas:
            replica.answers.set()
        reasons = [await call for call in waiting]
        assert sorted(reasons[:2]) == ["", "UNAVAILABLE"]
        assert reasons[2:] == ["", ""]
        assert room.calls == [2, 3]
        for _ in range(30):
            assert await room.reason(once) == ""
    assert await room.figure("outlier_detection.ejections_enforced_consecutive_local_origin_failure") == 1

    async def given_up() -> bool:
        return await room.figure("membership_healthy") == 1

    await until(given_up)


async def test_without_any_replica_the_caller_is_told_at_once(room: Room) -> None:
    async with room.through("inference") as opened:
        assert await room.reason(opened) == ""
        for wire in room.wires:
            wire.cut()
        assert await room.reason(opened) == "UNAVAILABLE"
        assert await room.reason(opened) == "UNAVAILABLE"


async def test_health_is_asked_of_the_neighbour_that_is_meant(room: Room) -> None:
    make: Any = health_pb2_grpc.HealthStub
    for target, expected in (("cost:7407", grpc.StatusCode.OK), ("policy:7404", grpc.StatusCode.UNAVAILABLE)):
        async with bare_channel(target, tls=room.tls("gateway"), options=()) as opened:
            call: Any = make(opened).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert await call.code() is expected


async def test_certificates_and_authority_are_exchanged_while_calls_run(room: Room) -> None:
    """In the order that operators follow; at every moment calls go through."""
    old, new = room.authority, Authority("next")
    identity = room.identity("inference")
    assert identity.tls is not None
    followed = (identity.tls, *room.serving)
    stop = asyncio.Event()
    reasons: list[str] = []
    async with channel("cost:7407", identity=identity) as opened, asyncio.TaskGroup() as tasks:

        async def load() -> None:
            while not stop.is_set():
                reasons.append(await room.reason(opened))

        tasks.create_task(load())
        for signs, believes in ((old, (old, new)), (new, (old, new)), (new, (new,))):
            before = [tls.generation for tls in followed]
            for number in range(len(room.serving)):
                signs.equips("cost", room.folder / f"serving-{number}", believes=believes)
            shown = signs.equips(EAST_WEST, room.folder / EAST_WEST, believes=believes)
            signs.equips("inference", room.folder / "inference", believes=believes)
            serial = x509.load_pem_x509_certificate(shown.certificate.read_bytes()).serial_number

            async def taken_up(before: list[int] = before, serial: int = serial) -> bool:
                certificates = await asked(room.admin, "/certs")
                return all(tls.refresh() > generation for tls, generation in zip(followed, before, strict=True)) and (
                    f"{serial:x}" in certificates
                )

            await until(taken_up)
            # The channel opens another connection, and Envoy its own, a moment later.
            so_far = len(reasons)
            await until(lambda so_far=so_far: _reached(reasons, so_far + 200))
        stop.set()
    assert set(reasons) == {""}


async def _reached(done: list[str], count: int) -> bool:
    return len(done) >= count


async def test_a_listener_that_stops_ends_no_call(room: Room) -> None:
    for replica in room.replicas:
        replica.goes_on.clear()
    clock = FakeClock()
    async with room.through("inference") as opened, aiohttp.ClientSession(f"http://{room.admin}") as session:
        start: Any = opened.stream_stream(BATCH.path, response_deserializer=BATCH.response_class.FromString)
        call = start(metadata=call_metadata(room.keys.principal()))
        assert isinstance(await call.read(), BATCH.response_class)
        draining = asyncio.create_task(
            Envoy(session, listener="east_west", drain_seconds=270, clock=clock).drain(),
        )
        await clock.until_someone_sleeps()
        # Who was not told yet is served on.
        assert [await room.reason(opened) for _ in range(5)] == [""] * 5
        clock.advance(seconds=5)
        await clock.until_someone_sleeps()
        assert not draining.done()
        for replica in room.replicas:
            replica.goes_on.set()
        assert isinstance(await call.read(), BATCH.response_class)
        assert await call.code() is grpc.StatusCode.OK

        async def done() -> bool:
            clock.advance(seconds=1)
            return draining.done()

        await until(done)
