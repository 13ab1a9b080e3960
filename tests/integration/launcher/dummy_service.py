"""A service that only says it is healthy. Run as `python dummy_service.py <service>` in place of a real one."""

import asyncio
import os
import signal
import sys

import grpc
import grpc.aio


async def _check(request: bytes, context: object) -> bytes:
    return b"\x08\x01"


async def _say_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def main(service: str) -> None:
    """Serves health until SIGTERM."""
    if os.environ.get("COMITIA_DUMMY_DIES") == service:
        print(f"{service} found no reason to live", file=sys.stderr)
        sys.exit(3)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_check)
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})
    server.add_generic_rpc_handlers((health,))
    server.add_insecure_port(os.environ[f"COMITIA_{service.upper()}_LISTEN"])
    await server.start()
    doors = os.environ.get(f"COMITIA_{service.upper()}_DOORS_LISTEN")
    if doors:
        host, _, port = doors.rpartition(":")
        await asyncio.start_server(_say_well, host, int(port))
    print(f"{service} serves", flush=True)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
