"""A worker without the SDK that says everything twice, in any order, late, and of what it was never given."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import uuid4

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict

from comitia.orchestrator.v1 import run_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia_sdk.aio import AsyncClient
from comitia_sdk.nouns.runs import ENDED
from tests.faults.conftest import SEED, Stage
from tests.faults.journals import journals
from tests.faults.workload import patiently
from tests.support.worker_streams import WORK, Stream

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-faults")]

RUNS: Final = 8
ITEMS: Final = 6
CREDITS: Final = 12
#: Streams that it leaves in the middle of its work: one more, and its steps would count as lost.
LEFT: Final = 2
#: Frames that it reads of a stream before it leaves it.
FRAMES: Final = 4
LIE: Final = -1_000_000.0
WORKFLOW: Final = f"""
name: told
version: 1.0.0
input_schema: {{type: object, properties: {{number: {{type: integer}}}}, required: [number]}}
nodes:
  - {{id: first, step: {{name: double, pool: liars}}, input: {{number: {{cel: input.number}}}}}}
  - id: each
    depends_on: [first]
    map:
      items: {{literal: {list(range(ITEMS))}}}
      body: {{step: {{name: double, pool: liars}}, input: {{number: {{cel: item}}}}}}
  # Its first attempt is kept until nobody waits for it any more.
  - id: late
    step: {{name: dawdle, pool: liars}}
    input: {{number: {{cel: input.number}}}}
    policy: {{timeout: 1s, retries: {{max_attempts: 20, first_backoff: 1ms, max_backoff: 1ms}}}}
output:
  first: {{cel: nodes.first.output}}
  each: {{cel: nodes.each.output}}
  late: {{cel: nodes.late.output}}
"""


@dataclass
class Liar:
    """One worker, over several streams."""

    dice: Random
    #: How often it said the truth of a lease, on top of the first time.
    repeated: int = 0
    #: Lies of what was no longer, or never, its own.
    lies: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    #: What it was given on streams that it left.
    left: list[pb.Lease] = field(default_factory=list[pb.Lease])
    _held: dict[int, pb.Lease] = field(default_factory=dict[int, pb.Lease])
    _told: list[int] = field(default_factory=list[int])

    async def work(self, channel: grpc.aio.Channel, metadata: Any, *, frames: int | None = None) -> None:
        """Opens a stream and lies on it; leaves it after so many frames, whatever it has then."""
        stream = Stream(channel.stream_stream(WORK)(metadata=metadata))
        self._held, self._told = {}, []
        strange = [pb.HeldStep(run_id=one.run_id, path=one.path, attempt=one.attempt + 7) for one in self.left[-2:]]
        strange.append(pb.HeldStep(run_id="run_01jd0000000000000000000000", path="nodes/first", attempt=1))
        hello = pb.WorkerHello(worker="liar", pool="liars", steps=["double", "dawdle"], credits=CREDITS, held=strange)
        await stream.send(pb.WorkRequest(hello=hello))
        try:
            while frames is None or frames > 0:
                frames = None if frames is None else frames - 1
                raw = await stream.call.read()
                assert isinstance(raw, bytes)
                await self._answer(stream, pb.WorkResponse.FromString(raw))
        finally:
            self.left += self._held.values()
            stream.call.cancel()

    async def _answer(self, stream: Stream, told: pb.WorkResponse) -> None:
        self.refused.update(one.reason for one in told.refused)
        says: list[pb.StepOutcome] = []
        for lease in told.leases:
            self._held[lease.lease_id] = lease
            assert len(self._held) <= CREDITS, "two answers gave back two credits"
            if lease.name != "dawdle" or lease.attempt > 1:
                says += 2 * [_truth(lease)]
                self.repeated += 1
        says += [_lie(lease_id) for lease_id in told.revoked_lease_ids if lease_id in self._held]
        if not says:
            return
        fresh = sorted({one.lease_id for one in says})
        stale = self.dice.sample(self._told, k=min(3, len(self._told)))
        lies = [_lie(lease_id) for lease_id in (*stale, 10_000 + self.dice.randrange(1_000))]
        self.lies += len(lies)
        says += lies
        self.dice.shuffle(says)
        for lease_id in fresh:
            del self._held[lease_id]
        self._told += fresh
        cut = self.dice.randint(1, len(says))
        for part in (says[:cut], says[cut:]):
            if part:
                await stream.says(*part)


def _truth(lease: pb.Lease) -> pb.StepOutcome:
    outcome = pb.StepOutcome(lease_id=lease.lease_id)
    outcome.output.number_value = lease.input.struct_value.fields["number"].number_value * 2
    return outcome


def _lie(lease_id: int) -> pb.StepOutcome:
    outcome = pb.StepOutcome(lease_id=lease_id)
    outcome.output.number_value = LIE
    return outcome


async def test_a_worker_that_lies_changes_no_result_that_was_recorded(stage: Stage, client: AsyncClient) -> None:
    await client.workflows.create(WORKFLOW)
    metadata = (("authorization", f"Bearer {await client.identity.token()}"),)
    liar = Liar(Random(SEED))
    started = [
        await patiently(lambda number=number: client.runs.start("told", {"number": number}, request_id=str(uuid4())))
        for number in range(RUNS)
    ]
    async with grpc.aio.insecure_channel(stage.mesh.target) as channel:
        for _ in range(LEFT):
            await liar.work(channel, metadata, frames=FRAMES)
        working = asyncio.create_task(liar.work(channel, metadata))
        ended = await asyncio.gather(*(_ended(client, run.run_id) for run in started))
        assert not working.done()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    for number, run in enumerate(ended):
        assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run
        assert MessageToDict(run.output) == {
            "first": number * 2.0,
            "each": [item * 2.0 for item in range(ITEMS)],
            "late": number * 2.0,
        }
    assert liar.left
    assert liar.repeated >= RUNS * (ITEMS + 2)
    assert liar.lies >= RUNS
    assert liar.refused["LEASE_EXPIRED"] >= liar.repeated // 2
    assert liar.refused["LEASE_UNKNOWN"] >= 1
    async with journals(stage.mesh) as opened:
        for run in ended:
            facts = await opened.replayed(run.run_id)
            assert {fact.call_failed.reason for fact in facts if fact.HasField("call_failed")} == {"NODE_TIMED_OUT"}


async def _ended(client: AsyncClient, run_id: str) -> run_pb2.Run:
    async for event in client.runs.watch(run_id):
        if event.HasField("run") and event.run.state in ENDED:
            return event.run
    raise AssertionError(f"the watch of {run_id} ended before the run did")
