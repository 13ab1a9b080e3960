"""The messages of `loop.proto`, the switches of a measurement, and how the processes talk to the driver."""

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from grpc_tools import protoc

SHARDS = 64
STEPS = 10
#: gRPC: an engine serves, workers dial.
METHOD = "/loop.Work/Work"
GRPC_OPTIONS = [("grpc.max_receive_message_length", 4 << 20), ("grpc.so_reuseport", 0)]


def compile_proto() -> ModuleType:
    """Compiles loop.proto into a temporary directory and imports it."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as out:
        if protoc.main(["protoc", f"-I{here}", f"--python_out={out}", str(here / "loop.proto")]) != 0:
            raise SystemExit("loop.proto does not compile")
        sys.path.insert(0, out)
        import loop_pb2

        sys.path.remove(out)
    return loop_pb2


pb = compile_proto()


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a measured loop does. The defaults are the bare loop."""

    route: Literal["jetstream", "jetstream_unconfirmed", "core_nats", "streams", "in_process"] = "streams"
    #: Leases in one frame at most.
    frame: int = 64
    facts: Literal["none", "keywords", "attributes"] = "none"
    decider: bool = False
    sealing: Literal["none", "house", "packed", "ready_keys"] = "none"
    rls: bool = False
    tenants: int = 1
    fence: Literal["none", "share", "key_share", "advisory"] = "none"
    partitioned: bool = False
    run_row: Literal["none", "ends", "every_tick"] = "none"
    leases: bool = False
    overlap: Literal["none", "decide", "seal"] = "none"
    lanes: int = 1
    #: Time that a commit takes longer, inside the database.
    delay_ms: float = 0.0


class Talk:
    """A line of JSON in, a line of JSON out."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()

    async def open(self) -> None:
        protocol = asyncio.StreamReaderProtocol(self._reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)

    async def hear(self) -> Any:
        """Gives the next line, or None at the end."""
        line = await self._reader.readline()
        return json.loads(line) if line else None

    @staticmethod
    def say(value: Any) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()
