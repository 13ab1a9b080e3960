"""Two replicas of cost behind a real Envoy as the east-west listener, and the means to call them as anybody."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio

from comitia.guard_table import GUARDS
from services.launcher.east_west import EastWestSettings, render_east_west
from services.launcher.edge import Address, MeshTlsFiles
from services.launcher.ports import PREFERRED
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.forwarded_certificate import FORWARDED_CERTIFICATE
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.tls import EAST_WEST, MeshTls
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.authority import Authority
from tests.support.edge import asked, running_envoy, write_mesh_secrets
from tests.support.everything import Everything, refusal
from tests.support.public_rpcs import INTERNAL, Rpc

CLOCK: Final = SystemClock()
#: Cost serves it to inference, among others.
RESERVE: Final = next(rpc for rpc in INTERNAL if rpc.name.endswith("/Reserve"))


@dataclass
class Wire:
    """Bytes between Envoy and a replica, until they are cut off."""

    port: int
    open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    server: asyncio.Server | None = None
    address: str = ""

    async def begin(self) -> None:
        self.server = await asyncio.start_server(self._both_ways, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open |= {writer, other_writer}
        await asyncio.gather(self._carry(reader, other_writer), self._carry(other_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Does what the death of the replica's machine does."""
        assert self.server is not None
        self.server.close()
        for writer in self.open:
            writer.transport.abort()


@dataclass
class Room:
    """Two replicas of cost behind the listener, and the means to call them as anybody."""

    folder: Path
    keys: MeshKeys
    authority: Authority
    replicas: tuple[Everything, Everything]
    #: By which the replicas prove themselves.
    serving: list[MeshTls] = field(default_factory=list[MeshTls])
    wires: list[Wire] = field(default_factory=list[Wire])
    #: Addresses of the replicas themselves.
    direct: list[str] = field(default_factory=list[str])
    address: str = ""
    admin: str = ""

    def tls(self, service: str, *, east_west: bool = True, authority: Authority | None = None) -> MeshTls:
        files = (authority or self.authority).equips(service, self.folder / service, believes=(self.authority,))
        neighbours = {f"{name}:{PREFERRED[name]}": name for name in SERVICES}
        return MeshTls(
            files,
            service=service,
            neighbours=neighbours,
            clock=CLOCK,
            east_west=self.address if east_west else "",
        )

    def identity(self, service: str, *, certificate_of: str = "", east_west: bool = True) -> WorkloadSigner:
        tls = self.tls(certificate_of or service, east_west=east_west)
        return WorkloadSigner(service, self.keys.workload_keys[service], clock=CLOCK, tls=tls)

    @asynccontextmanager
    async def through(self, service: str, **how: Any) -> AsyncGenerator[grpc.aio.Channel]:
        """Opens a channel to cost as the services have it."""
        idempotent: tuple[str, ...] = how.pop("idempotent", ())
        async with channel("cost:7407", identity=self.identity(service, **how), idempotent=idempotent) as opened:
            yield opened

    async def reason(self, opened: grpc.aio.Channel, *, rpc: Rpc = RESERVE, forged: str = "") -> str:
        """Calls as the admin of a tenant; gives the reason of the refusal, empty for an answer."""
        said = ((FORWARDED_CERTIFICATE, forged),) if forged else ()
        refused = await refusal(rpc, opened, (*call_metadata(self.keys.principal()), *said))
        return "" if refused is None else refused.reason or str(refused)

    async def figure(self, name: str, *, cluster: str = "cost") -> int:
        """Reads one of Envoy's counters of cost."""
        said = await asked(self.admin, f"/stats?filter=^cluster\\.{cluster}\\.{name}$")
        return int(said.rpartition(f".{name.rpartition('.')[2]}: ")[2].split()[0])

    @property
    def calls(self) -> list[int]:
        return [replica.calls for replica in self.replicas]


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await met():  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running_room(folder: Path) -> AsyncGenerator[Room]:
    """Serves while the block runs."""
    keys = MeshKeys.make(folder, clock=CLOCK)
    room = Room(folder, keys, Authority(), (Everything(), Everything()))
    async with AsyncExitStack() as stack:
        for replica in room.replicas:
            await _serve(room, replica, stack)
        configuration = render_east_west(_settings(room))
        room.address, room.admin = await stack.enter_async_context(running_envoy("east_west", configuration, folder))

        async def found() -> bool:
            clusters = ("cost", "cost-repeatable")
            return {await room.figure("membership_healthy", cluster=one) for one in clusters} == {len(room.replicas)}

        await until(found)
        yield room


async def _serve(room: Room, replica: Everything, stack: AsyncExitStack) -> None:
    files = room.authority.equips("cost", room.folder / f"serving-{len(room.serving)}")
    room.serving.append(MeshTls(files, service="cost", neighbours={}, clock=CLOCK))
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(replica.register,),
        admission=room.keys.admission(GUARDS),
        drain_seconds=0.2,
        tls=room.serving[-1],
    )
    running = await stack.enter_async_context(serve(server))
    wire = Wire(running.port)
    await wire.begin()
    stack.callback(wire.cut)
    room.direct.append(f"127.0.0.1:{running.port}")
    room.wires.append(wire)


def _settings(room: Room) -> EastWestSettings:
    shown = room.authority.equips(EAST_WEST, room.folder / EAST_WEST)
    files = MeshTlsFiles(
        secrets=room.folder / "secrets",
        certificate_chain=shown.certificate,
        private_key=shown.key,
        authorities=shown.authorities,
    )
    write_mesh_secrets(files)
    nowhere = {service: [Address("127.0.0.1", 1)] for service in SERVICES}
    return EastWestSettings(
        listen=Address("127.0.0.1", 0),
        admin=Address("127.0.0.1", 0),
        services=nowhere | {"cost": [Address.parse(wire.address) for wire in room.wires]},
        mesh_tls=files,
    )
