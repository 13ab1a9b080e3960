"""The worker process: takes leases on every route at once, does nothing with them, and answers."""

import asyncio
import sys

import nats
import uvloop
from messages import Talk, pb
from routes import work_nats, work_streams

OUTPUT = b"x" * 20


def results_of(frame: "pb.EngineFrame") -> bytes:
    """A step that does nothing: its answer is what it was asked, and a little more."""
    answer = pb.WorkerFrame()
    for lease in frame.leases:
        result = answer.results.add()
        result.lease_id = lease.lease_id
        result.run_id = lease.run_id
        result.path = lease.path
        result.attempt_group = lease.attempt_group
        result.call_index = lease.call_index
        result.response = lease.request + OUTPUT
    return answer.SerializeToString()


def handle(frame: bytes) -> bytes:
    return results_of(pb.EngineFrame.FromString(frame))


def handle_from_nats(frame: bytes) -> tuple[str, bytes]:
    taken = pb.EngineFrame.FromString(frame)
    return taken.reply_to, results_of(taken)


async def main() -> None:
    talk = Talk()
    await talk.open()
    where = await talk.hear()
    client = await nats.connect(where["nats"])
    await work_nats(client, handle_from_nats)
    tasks = [asyncio.create_task(work_streams(target, handle)) for target in where["engines"]]
    talk.say({"ready": True})
    while await talk.hear() is not None:
        pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
