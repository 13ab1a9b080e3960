"""Measures what the east-west listener adds to a call: one service calls another directly and through it, by turns.

Part of `make bench-operations`. Both ways have certificates on both ends; the callee does nothing, so what differs is
the hop.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc.aio
import psutil

from comitia.guard_table import GUARDS
from services.launcher.east_west import EastWestSettings, render_east_west
from services.launcher.edge import Address, MeshTlsFiles
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.tls import EAST_WEST, MeshTls
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.bench.whole_mesh import SHORT, Report
from tests.support.authority import Authority
from tests.support.edge import running_envoy, write_mesh_secrets
from tests.support.everything import Everything
from tests.support.public_rpcs import INTERNAL

CALLS: Final = 300 if SHORT else 2000
ROUNDS: Final = 3 if SHORT else 5
WARM_CALLS: Final = 50
CLOCK: Final = SystemClock()
RESERVE: Final = next(rpc for rpc in INTERNAL if rpc.name.endswith("/Reserve"))

figure: Final = Report("operations")


@asynccontextmanager
async def callee(folder: Path) -> AsyncGenerator[tuple[str, str, MeshKeys, Authority]]:
    """Serves as cost, and runs the listener; gives both addresses and what callers prove themselves by."""
    keys, authority = MeshKeys.make(folder, clock=CLOCK), Authority()
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(Everything().register,),
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
        tls=MeshTls(authority.equips("cost", folder / "cost"), service="cost", neighbours={}, clock=CLOCK),
    )
    shown = authority.equips(EAST_WEST, folder / EAST_WEST)
    files = MeshTlsFiles(
        secrets=folder / "secrets",
        certificate_chain=shown.certificate,
        private_key=shown.key,
        authorities=shown.authorities,
    )
    write_mesh_secrets(files)
    async with serve(server) as running:
        direct = f"127.0.0.1:{running.port}"
        settings = EastWestSettings(
            listen=Address("127.0.0.1", 0),
            admin=Address("127.0.0.1", 0),
            services={service: [Address.parse(direct)] for service in SERVICES},
            mesh_tls=files,
        )
        async with running_envoy("east_west", render_east_west(settings), folder) as (listener, _):
            yield direct, listener, keys, authority


async def calls(opened: grpc.aio.Channel, metadata: Any, times: int) -> list[float]:
    """Calls one after the other; gives how long each took, seconds."""
    call: Any = opened.unary_unary(RESERVE.path, response_deserializer=RESERVE.response_class.FromString)
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await call(b"", metadata=metadata)
        took.append(time.perf_counter() - began)
    return took


async def measured() -> None:
    """Prints the figures."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct, listener, keys, authority = await stack.enter_async_context(callee(folder))
        [envoy] = [child for child in psutil.Process().children() if child.name() == "envoy"]
        files, metadata = authority.equips("inference", folder / "inference"), call_metadata(keys.principal())
        ways: dict[str, grpc.aio.Channel] = {}
        for name, address in (("direct", ""), ("through", listener)):
            tls = MeshTls(files, service="inference", neighbours={direct: "cost"}, clock=CLOCK, east_west=address)
            signer = WorkloadSigner("inference", keys.workload_keys["inference"], clock=CLOCK, tls=tls)
            ways[name] = await stack.enter_async_context(channel(direct, identity=signer, idempotent=(RESERVE.path,)))
            await calls(ways[name], metadata, WARM_CALLS)
        medians: dict[str, list[float]] = {name: [] for name in ways}
        spent = 0.0
        for _ in range(ROUNDS):
            for name, opened in ways.items():
                before = envoy.cpu_times()
                medians[name].append(median(await calls(opened, metadata, CALLS)))
                if name == "through":
                    after = envoy.cpu_times()
                    spent += after.user + after.system - before.user - before.system
    direct_us, through_us = (median(medians[name]) * 1e6 for name in ("direct", "through"))
    note = f"p50 {through_us:.0f} us through, {direct_us:.0f} us directly, one call after the other"
    figure("east_west_added_p50_us", through_us - direct_us, "us", note=note)
    figure("east_west_cpu_us_per_call", spent / (ROUNDS * CALLS) * 1e6, "us", note="of Envoy, user and system")


def east_west() -> None:
    """Runs it."""
    asyncio.run(measured())


if __name__ == "__main__":
    east_west()
