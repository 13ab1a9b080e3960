"""The worker of `tests.bench.engine`, in a process of its own: takes steps from every engine, and does nothing."""

import asyncio
import json
import sys
from typing import Any, Final

import grpc.aio
import uvloop
from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from tests.bench.engine_runs import STEP

_WORK: Final = "/comitia.orchestrator.v1.WorkerService/Work"
_OUTCOMES_AT_ONCE: Final = 1_000


def hello(credits_: int) -> bytes:
    """Gives the first message of a stream."""
    said = pb.WorkerHello(worker="bench", steps=[STEP], credits=credits_)
    return pb.WorkRequest(hello=said).SerializeToString()


def answers(frame: bytes) -> list[bytes]:
    """Answers every lease of a frame with null."""
    leases = pb.WorkResponse.FromString(frame).leases
    messages: list[bytes] = []
    for start in range(0, len(leases), _OUTCOMES_AT_ONCE):
        request = pb.WorkRequest()
        for lease in leases[start : start + _OUTCOMES_AT_ONCE]:
            outcome = request.outcomes.outcomes.add()
            outcome.lease_id = lease.lease_id
            outcome.output.null_value = struct_pb2.NULL_VALUE
        messages.append(request.SerializeToString())
    return messages


async def work(target: str, metadata: list[tuple[str, str]], credits_: int) -> None:
    """Serves one engine until cancelled, or until its stream ends."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stream: Any = channel.stream_stream(_WORK)(metadata=[(name, value) for name, value in metadata])
        await stream.write(hello(credits_))
        while True:
            frame = await stream.read()
            if not isinstance(frame, bytes):
                return
            for message in answers(frame):
                await stream.write(message)


async def main() -> None:
    """Hears in one line of JSON whom to work for, and works until its input ends."""
    loop = asyncio.get_running_loop()
    asked = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    tasks = [asyncio.create_task(work(target, metadata, asked["credits"])) for target, metadata in asked["engines"]]
    await loop.run_in_executor(None, sys.stdin.readline)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main())
