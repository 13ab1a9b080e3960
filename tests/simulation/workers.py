"""Workers and their streams: what they are told and what they say is late, lost, doubled, or a lie."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import journal_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import WorkersAtLimit
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.programs.values import to_value
from tests.simulation.judge import Judge
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.neighbours import Manners, Trace

CREDITS = 2
#: Seconds within which a step is asked about soon.
_SHORT = 5.0
#: A step as workers know it: run, path and attempt.
Place = tuple[str, str, int]


class Stream:
    """One worker's stream, at the engine's end. What goes either way takes time, and comes in order."""

    def __init__(
        self, pools: StepPools, process: Process, worker: "Worker", *, loop: SimulatedLoop, judge: Judge, dice: Random
    ) -> None:
        self.process = process
        self.worker = worker
        self.broken = False
        self._pools = pools
        self._loop = loop
        self._judge = judge
        self._dice = dice
        self._place: AbstractContextManager[None] | None = None
        self._woken = False
        self._there = self._back = 0.0
        self.desk = Desk(
            tenant=TENANT, subject="key_w", worker=worker.name, pool="default", steps=("work",), wake=self._wake
        )

    def say(self, message: pb.WorkRequest) -> None:
        """Sends what the worker says."""
        self._there = max(self._there, self._loop.time() + 0.0005 + 0.02 * self._dice.random() ** 3)
        self._loop.call_at(self._there, self._hear, message, context=self.process.context)

    def cut(self) -> None:
        """Breaks it; the engine notices later, and what is on its way is lost."""
        if not self.broken:
            self.broken = True
            self._loop.call_later(0.05 * self._dice.random(), self.end, context=self.process.context)

    def end(self) -> None:
        """Gives up the place of the worker, at the engine."""
        place, self._place = self._place, None
        if place is not None:
            place.__exit__(None, None, None)
        if not self.broken:
            self.broken = True

    def _hear(self, message: pb.WorkRequest) -> None:
        if self.broken:
            return
        match message.WhichOneof("message"):
            case "hello":
                place = self._pools.connected(self.desk, credits_=message.hello.credits, held=message.hello.held)
                try:
                    place.__enter__()
                except WorkersAtLimit:
                    self.broken = True
                else:
                    self._place = place
            case "outcomes" if self._place is not None:
                self._pools.outcomes(self.desk, message.outcomes.outcomes)
            case "heartbeats" if self._place is not None:
                self._pools.heard(self.desk, message.heartbeats.lease_ids)
            case _:
                pass

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._tell, context=self.process.context)

    def _tell(self) -> None:
        self._woken = False
        if self._place is None and self.broken:
            return
        for frame in self._pools.frames(self.desk):
            told = pb.WorkResponse.FromString(frame)
            for lease in told.leases:
                self._judge.leased(lease.run_id, lease.path, lease.attempt)
            self._back = max(self._back, self._loop.time() + 0.0005 + 0.02 * self._dice.random() ** 3)
            self._loop.call_at(self._back, self.worker.told, self, told, context=self.worker.process.context)


@dataclass(slots=True)
class _Work:
    """A step in progress at a worker."""

    place: Place
    stream: Stream
    lease_id: int
    #: What came of it, once something has.
    outcome: pb.StepOutcome | None = None
    #: True for one that the worker has forgotten about.
    silent: bool = False


class Worker:
    """Makes steps, more or less well."""

    def __init__(
        self, name: str, *, loop: SimulatedLoop, judge: Judge, dice: Random, manners: Manners, trace: Trace
    ) -> None:
        self.name = name
        self.process = Process(name)
        self.streams: dict[str, Stream] = {}
        self._loop = loop
        self._judge = judge
        self._dice = dice
        self._manners = manners
        self._trace = trace
        self._works: dict[Place, _Work] = {}
        self._made = 0

    def dial(self, engine: str, pools: StepPools, process: Process) -> None:
        """Opens a stream to an engine, unless one stands."""
        stream = self.streams.get(engine)
        if stream is not None and not stream.broken:
            return
        stream = self.streams[engine] = Stream(
            pools, process, self, loop=self._loop, judge=self._judge, dice=self._dice
        )
        held = [
            pb.HeldStep(run_id=work.place[0], path=work.place[1], attempt=work.place[2])
            for work in self._works.values()
            if work.stream.broken
        ][:CREDITS]
        hello = pb.WorkerHello(worker=self.name, steps=["work"], credits=CREDITS, held=held)
        stream.say(pb.WorkRequest(hello=hello))

    def forget(self, engine: str) -> None:
        """Notices that an engine is gone."""
        stream = self.streams.pop(engine, None)
        if stream is not None:
            stream.broken = True

    def crash(self) -> None:
        """Loses everything."""
        self._trace(f"{self.name} crashes")
        self._works.clear()
        for stream in self.streams.values():
            stream.cut()
        self.streams.clear()

    def beat(self) -> None:
        """Shows that it lives."""
        for stream in self.streams.values():
            alive = [work.lease_id for work in self._works.values() if work.stream is stream and not work.silent]
            if alive and not stream.broken:
                stream.say(pb.WorkRequest(heartbeats=pb.Heartbeats(lease_ids=alive)))

    def told(self, stream: Stream, news: pb.WorkResponse) -> None:
        """Takes what an engine tells."""
        if stream.broken:
            return
        for lease_id in news.revoked_lease_ids:
            for work in [work for work in self._works.values() if (work.stream, work.lease_id) == (stream, lease_id)]:
                if work.silent:
                    self._release(work)  # reminded of it, it has room again
                    del self._works[work.place]
                elif self._dice.random() < 0.7:
                    del self._works[work.place]  # else it does not listen, and answers too late
        for lease in news.leases:
            self._take(stream, lease)

    def _take(self, stream: Stream, lease: pb.Lease) -> None:
        place = lease.run_id, lease.path, lease.attempt
        self._trace(f"{self.name} has {lease.run_id[-6:]} {lease.path} {lease.attempt}")
        work = self._works.get(place)
        if work is not None:
            # Since an earlier stream, or for another engine: what it comes to is said to whoever asked last.
            work.stream, work.lease_id = stream, lease.lease_id
            if work.outcome is not None:
                self._answer(work)
            return
        work = self._works[place] = _Work(place, stream, lease.lease_id)
        forgets = 0.0 < _patience(lease) < _SHORT and self._dice.random() < self._manners.workers_forget
        if forgets and self._dice.random() < 0.5:
            work.silent = True
            return
        if forgets:
            self._later(0.001, self._release, work)
            return
        errs, roll = self._dice.random() < self._manners.workers_err, self._dice.random()
        seconds = 0.001 + 2.0 * self._dice.random() ** 3
        if errs and roll < 0.1:
            work.silent = True
        elif errs and roll < 0.25:
            self._later(12.0 * self._dice.random(), self._made_it, work)
        elif errs and roll < 0.35:
            self._later(seconds, self._release, work)
        elif errs and roll < 0.65:
            self._later(seconds, self._failed, work, roll < 0.45)
        elif errs and roll < 0.85:
            for _ in range(self._dice.randint(2, 3)):
                self._later(seconds + 3.0 * self._dice.random() ** 3, self._made_it, work)
        elif errs:
            self._later(seconds, self._lie, work)
        else:
            self._later(seconds, self._made_it, work)

    def _later(self, seconds: float, act: Callable[..., None], *args: object) -> None:
        self._loop.call_later(seconds, act, *args, context=self.process.context)

    def _made_it(self, work: _Work) -> None:
        self._made += 1
        run_id, path, attempt = work.place
        output = to_value({"made": f"{self.name} {self._made}: {path} {attempt}"})
        key = self._judge.leased(run_id, path, attempt)
        self._judge.gives(run_id, key, journal_pb2.StepResult(output=output).SerializeToString())
        work.outcome = pb.StepOutcome(output=output)
        self._answer(work)

    def _failed(self, work: _Work, permanent: bool) -> None:
        failure = pb.StepFailure(reason="STEP_RAISED", message="it did not work", permanent=permanent)
        work.outcome = pb.StepOutcome(failure=failure)
        self._answer(work)

    def _release(self, work: _Work) -> None:
        delay = Duration()
        delay.FromMilliseconds(int(2_000 * self._dice.random()))
        work.outcome = pb.StepOutcome(release=pb.StepRelease(delay=delay))
        self._answer(work)

    def _lie(self, work: _Work) -> None:
        """Answers for leases that it never had, or has no more."""
        for lease_id in (0, work.lease_id + 1, work.lease_id - 1, 10_000):
            said = pb.StepOutcome(lease_id=lease_id, failure=pb.StepFailure(reason="LIE", message="a lie"))
            if not any(other.lease_id == lease_id for other in self._works.values()):
                work.stream.say(pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[said])))
        self._made_it(work)

    def _answer(self, work: _Work) -> None:
        """Says what came of a step. It remembers for a while, in case the stream breaks before anybody has heard."""
        if work.outcome is None or self._works.get(work.place, work) is not work:
            return
        said = pb.StepOutcome()
        said.CopyFrom(work.outcome)
        said.lease_id = work.lease_id
        if not work.stream.broken:
            work.stream.say(pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[said])))
            if self._works.get(work.place) is work:
                self._later(2.0, self._over, work)

    def _over(self, work: _Work) -> None:
        if self._works.get(work.place) is work and work.outcome is not None:
            del self._works[work.place]


def _patience(lease: pb.Lease) -> float:
    """Gives the seconds for which nobody asks about a step."""
    return (lease.heartbeat if lease.HasField("heartbeat") else lease.timeout).ToTimedelta().total_seconds()
