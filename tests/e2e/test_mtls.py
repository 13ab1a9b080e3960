"""A mesh whose services show each other certificates: all of it works, strangers get no word, renewals fail no call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher.certificates import CERTIFICATE_LIFE, MeshCertificates, certificates_of
from services.launcher.services import SERVICES
from services.meshkit.grpc.channel import bare_channel, channel
from services.meshkit.grpc.tls import TlsFiles, certified_name
from services.meshkit.testing.fake_clock import FakeClock
from tests.e2e.conftest import Rest, Tenant, until
from tests.e2e.inside import SUCCEEDED, Inside, all_of_it_works, reason
from tests.support.authority import Authority
from tests.support.mesh import running_mesh
from tests.support.public_rpcs import INTERNAL

WAITING: Final = session_pb2.SESSION_STATE_WAITING
HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = b"\x08\x01"


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    with running_mesh(mtls=True) as running:
        yield Inside(running)


@pytest.fixture
async def tenant(inside: Inside) -> AsyncIterator[Tenant]:
    mesh = inside.mesh
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as client, aiohttp.ClientSession() as http:
        rest = Rest(http, mesh.url, mesh.admin_key)
        yield Tenant(name="first", mark="", key=mesh.admin_key, client=client, rest=rest, provider=mesh.provider)


async def test_a_session_with_memory_tools_and_law_runs_by_grpc_and_by_rest(tenant: Tenant) -> None:
    await all_of_it_works(tenant)


def test_the_command_line_says_what_services_speak(inside: Inside) -> None:
    said = inside.mesh.comitia("status").stdout
    assert "between services TLS with certificates on both ends" in said
    assert "services speak  TLS with certificates" in inside.mesh.comitia("doctor", check=None).stdout
    table = inside.mesh.comitia("certificate", "status").stdout
    assert all(one.serial in table for one in certificates_of(inside.mesh.data_dir).states())


async def health(opened: Any) -> bytes | str:
    """Asks for health, which is open to all who get a connection; gives the answer or the code of the refusal."""
    try:
        return await opened.unary_unary(HEALTH)(b"", timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code().name


async def test_who_shows_no_certificate_of_this_mesh_gets_no_word_from_any_service(
    inside: Inside, tmp_path: Path
) -> None:
    stranger = Authority("stranger").equips("cost", tmp_path)
    of_a_stranger = TlsFiles(certificate=stranger.certificate, key=stranger.key, authorities=inside.data.authorities)

    @asynccontextmanager
    async def without_certificate(target: str, name: str) -> AsyncGenerator[Any]:
        credentials = grpc.ssl_channel_credentials(inside.data.authorities.read_bytes())
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(target, credentials, options=options) as opened:
            yield opened

    for service, target in inside.targets.items():
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            good = await enter(bare_channel(target, tls=inside.tls("launcher"), options=()))
            bad = (
                await enter(bare_channel(target, tls=None, options=())),
                await enter(bare_channel(target, tls=inside.tls("cost", of_a_stranger), options=())),
                await enter(without_certificate(target, certified_name(service))),
            )
            assert await health(good) == SERVING
            assert [await health(one) for one in bad] == ["UNAVAILABLE"] * len(bad), service


async def test_a_certificate_opens_what_the_peer_list_names_and_nothing_else(inside: Inside, tenant: Tenant) -> None:
    """Every internal RPC x every service and the edge, at each service that answers it, with their own files."""
    token = (("authorization", f"Bearer {await tenant.client.identity.token()}"),)
    wrong: list[str] = []
    for door, target in inside.targets.items():
        rpcs = [rpc for rpc in INTERNAL if rpc.path.split(".")[1] in (door, "common")]
        assert rpcs
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            callers = {service: await enter(channel(target, identity=inside.identity(service))) for service in SERVICES}
            # What was taken along from one service is worth nothing with the certificate of another.
            callers["stolen"] = await enter(
                channel(target, identity=inside.identity("gateway", certificate_of="tools"))
            )
            callers["edge"] = await enter(bare_channel(target, tls=inside.tls("edge"), options=()))
            for rpc in rpcs:
                for caller, opened in callers.items():
                    refused = await reason(rpc, opened, token) == "PEER_NOT_ALLOWED"
                    if refused is (caller in rpc.guard.peers):
                        wrong.append(f"{caller} -> {rpc.name} at {door}")
    assert not wrong, "\n".join(wrong)


@dataclass(slots=True)
class Load:
    """Calls of all kinds, again and again, and what failed of them."""

    tenant: Tenant
    calls: int = 0
    failures: list[str] = field(default_factory=list[str])

    async def sessions(self) -> None:
        client = self.tenant.client
        while True:
            session = await client.sessions.start("Lakes", agents=["Bob"], max_rounds=1)
            ended = await self.tenant.ended(session.session_id)
            turns = await self.tenant.turns(session.session_id)
            whole = all(turn.memory_id and not turn.without_recall for turn in turns)
            if ended.state != SUCCEEDED or len(turns) != 1 or not whole:
                self.failures.append(f"session {ended.state} {ended.state_reason} {ended.state_message}: {turns}")
            self.calls += 1

    async def rest(self) -> None:
        # One of each service that a caller reaches.
        paths = (
            "/v1/agents",
            "/v1/tools",
            "/v1/memories",
            "/v1/model-deployments",
            "/v1/policies",
            "/v1/budgets",
            "/v1/api-keys",
        )
        while True:
            for path in paths:
                answer = await self.tenant.rest.ask("GET", path)
                if answer.status != 200:
                    self.failures.append(f"{path}: {answer.status} {answer.body}")
                self.calls += 1
                await asyncio.sleep(0.02)


@asynccontextmanager
async def under_load(tenant: Tenant) -> AsyncGenerator[Load]:
    load = Load(tenant)
    running = [asyncio.create_task(load.sessions()), asyncio.create_task(load.rest())]
    try:
        yield load
    finally:
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        load.failures += [repr(error) for error in ended if not isinstance(error, asyncio.CancelledError)]


async def test_renewals_under_a_running_session_fail_nothing(inside: Inside, tenant: Tenant) -> None:
    """All certificates by command, all by themselves before they end, and all once more with another authority."""
    await tenant.cast("Bob", "Eve")
    client = tenant.client
    session = await client.sessions.start("Rivers", agents=["Eve"], max_rounds=4, manual_advance=True)
    watching = asyncio.create_task(watched(client, session.session_id))
    [old] = inside.believed()

    def by_command() -> None:
        inside.mesh.comitia("certificate", "rotate")

    def by_age() -> None:
        long_ago = FakeClock(datetime.now(UTC) - CERTIFICATE_LIFE * 5 / 6)
        MeshCertificates(inside.data, clock=long_ago, report=lambda _: None).renew()

    def by_authority() -> None:
        inside.mesh.comitia("certificate", "rotate", "--authority")

    faults = await inside.faults()
    async with under_load(tenant) as load:
        for rounds, renew in enumerate((by_command, by_age, by_authority), start=1):
            assert (await tenant.until_state(session.session_id, WAITING)).rounds_executed == rounds
            before = load.calls
            await renewed(inside, renew)
            if renew is by_authority:
                await until(lambda: forgotten(inside, old), seconds=60)
                await until(inside.all_show_what_lies_there, seconds=60)
            assert load.calls > before
            await client.sessions.advance(session.session_id)
        kinds = await asyncio.wait_for(watching, 20)
    assert load.failures == []
    # Nothing had to be tried again inside either.
    assert await inside.faults() == faults
    assert load.calls > 20
    assert kinds.count("turn_completed") == 4
    assert (await client.sessions.get(session.session_id)).state == SUCCEEDED
    assert (await client.status()).serving


async def watched(client: AsyncClient, session_id: str) -> list[str]:
    """Follows a session by one stream to its end; gives what it told."""
    told = [event.WhichOneof("event") async for event in client.sessions.watch(session_id)]
    return [kind for kind in told if kind is not None]


async def renewed(inside: Inside, renew: Callable[[], None]) -> None:
    """Waits until all certificates are other ones, made just now, and shown."""
    before = {one.serial for one in certificates_of(inside.data.root).states() if one.holder != "authority"}
    began = datetime.now(UTC).replace(microsecond=0)
    await asyncio.to_thread(renew)

    async def there() -> bool:
        found = [one for one in certificates_of(inside.data.root).states() if one.holder != "authority"]
        return all(one.serial not in before and one.made >= began for one in found)

    await until(there, seconds=60)
    await until(inside.all_show_what_lies_there, seconds=60)


async def forgotten(inside: Inside, authority: bytes) -> bool:
    return authority not in inside.believed()
