"""Measures what the east-west listener adds to a call: one service calls another directly and through it, by turns.

Part of `make bench-operations`. Both ways have certificates on both ends; the callee does nothing, so what differs is
the hop.
"""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc.aio
import psutil

from services.meshkit.grpc.channel import call_metadata, channel
from tests.bench.whole_mesh import SHORT, Report
from tests.support.east_west import RESERVE, running_room

CALLS: Final = 300 if SHORT else 2000
ROUNDS: Final = 3 if SHORT else 5
WARM_CALLS: Final = 50

figure: Final = Report("operations")


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
        room = await stack.enter_async_context(
            running_room(Path(stack.enter_context(tempfile.TemporaryDirectory()))),
        )
        [envoy] = [child for child in psutil.Process().children() if child.name() == "envoy"]
        metadata = call_metadata(room.keys.principal())
        direct = channel(room.direct[0], identity=room.identity("inference", east_west=False), service="cost")
        ways = {
            "direct": await stack.enter_async_context(direct),
            "through": await stack.enter_async_context(room.through("inference", idempotent=(RESERVE.path,))),
        }
        for opened in ways.values():
            await calls(opened, metadata, WARM_CALLS)
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
