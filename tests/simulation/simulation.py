"""One simulation: engines, their database and their neighbours under a seed, with all that can go wrong.

`python -m tests.simulation.simulation SEED` tells what happens under a seed, step by step.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, Final
from unittest.mock import patch

import structlog

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import NOON
from services.meshkit.testing.mesh_keys import TENANT
from services.meshkit.testing.seeded_ids import SeededIds
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.run import SIGNAL, OwnedRun, RunKind, StartKey, shard_of
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from services.orchestrator.programs.run import PROGRAMS
from services.orchestrator.programs.values import to_value
from tests.simulation.database import FarStore, JudgedStore, Weather
from tests.simulation.judge import Broken, Judge
from tests.simulation.loop import Process, SimulatedLoop, Spinning
from tests.simulation.neighbours import Bus, FarCalls, Manners
from tests.simulation.workers import Worker
from tests.simulation.workload import Wish, wishes
from tests.support.run_store import StoredRun
from tests.support.workflows import PROGRAMS as TEST_PROGRAMS

#: How long things go wrong, virtual seconds.
_SUFFERING: Final = 22.0
#: Longest time after the last fault until every run has ended, virtual seconds.
_HEALED_WITHIN: Final = 400.0
_LIMITS: Final = PoolLimits(workers=8, workers_of_tenant=8, waiting=2, waiting_of_tenant=2)
_ALL: Final = (
    *("crash", "stall", "twin", "restart", "commits", "reads", "away", "hang", "clock", "bus"),
    *("big writes", "calls", "drag", "workers", "worker crash", "cut", "poison", "commands"),
)
#: By what no healthy run is read again, and no call made twice.
_HARMLESS: Final = frozenset({"bus", "calls", "drag", "workers", "worker crash", "cut", "poison", "hang", "big writes"})


@dataclass(slots=True)
class SetClock:
    """The clock of a process: its wall may be wrong."""

    loop: SimulatedLoop
    wrong_by: float = 0.0

    def now(self) -> datetime:
        """See `Clock.now`."""
        return NOON + timedelta(seconds=self.loop.time() + self.wrong_by)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Replica:
    """One incarnation of a replica."""

    name: str
    process: Process
    clock: SetClock
    pools: StepPools
    engine: Engine
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    main: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """True while it runs, if only in its own eyes."""
        return not self.process.dead and self.main is not None and not self.main.done()

    @property
    def well(self) -> bool:
        """True while it can be asked something."""
        return self.up and not self.process.stands_still and not self.stop.is_set()


class Simulation:
    """Everything under one seed.

    Args:
        seed: what happens, and in which order.
        harm: what may go wrong; drawn from the seed without it.
        max_runs: places of each replica.
    """

    def __init__(self, seed: int, *, harm: frozenset[str] | None = None, max_runs: int = 50) -> None:
        self.seed = seed
        self._limits = EngineLimits(max_runs=max_runs, end_seconds=10.0)
        self._dice = dice = Random(seed)
        self.harm = frozenset(one for one in _ALL if dice.random() < 0.45) if harm is None else harm
        if harm is None and dice.random() < 0.25:
            self.harm &= _HARMLESS
        self.loop = SimulatedLoop(self._die(), disorder=dice.choice((0.0, 0.1, 0.5, 1.0)))
        self.trace: list[str] = []
        self.judge = Judge()
        self.judge.calm = self.harm <= _HARMLESS
        self.judge.awake = not self.harm & {"stall", "twin"}
        self._town = Process("town")
        self._server = Process("database")
        self.store = JudgedStore(SetClock(self.loop), self.judge)
        self._weather, self._manners = Weather(), Manners()
        self._bus = Bus(judge=self.judge, loop=self.loop, dice=self._die(), manners=self._manners)
        self._ids = SeededIds(seed)
        self._replicas: list[Replica] = []
        self._incarnations = 0
        self._workers = [
            Worker(
                name,
                loop=self.loop,
                judge=self.judge,
                dice=self._die(),
                manners=self._manners,
                trace=self._tell,
            )
            for name in ("w1", "w2")
        ]
        self._wishes = wishes(
            self._die(), dice.randint(4, 10) + 6 * self.judge.calm, within=dice.choice((1.0, 20.0, 60.0))
        )
        self._granted = 0
        self._asked = 0
        self._healed = False

    def _die(self) -> Random:
        """Gives dice of somebody's own, so that what others draw changes nothing for them."""
        return Random(self._dice.getrandbits(64))

    def _tell(self, sentence: str) -> None:
        self.trace.append(f"{self.loop.time():.6f} {self.loop.steps} {sentence}")

    def run(self) -> bytes:
        """Lets everything happen; gives the trace.

        Raises: Broken, Spinning.
        """
        self._tell(f"seed {self.seed}: {', '.join(sorted(self.harm)) or 'nothing'}")
        names = ("one", "two", "three")[: self._dice.randint(2, 3)]
        for name in names:
            self._begin(name)
        for worker in self._workers:
            self._spawn(self._work(worker, names))
        for number, wish in enumerate(self._wishes):
            self._spawn(self._want(number, wish))
        self._spawn(self._suffer(names))
        try:
            self.loop.run(self._is_over)
            self._healthy()
            self.judge.last_look(list(self.store.runs.values()))
            wanted = [one for one in self.store.runs.values() if not one.journal[0].run_started.run.parent_run_id]
            if len(wanted) != len(self._wishes):
                raise Broken(f"{len(self._wishes)} runs were wanted, and there are {len(wanted)}")
        finally:
            self.loop.close()
        self._tell("over")
        for stored in self.store.runs.values():
            for entry in stored.journal:
                self.trace.append(
                    f"{stored.run.run_id} {sha256(entry.SerializeToString(deterministic=True)).hexdigest()}"
                )
        return "\n".join(self.trace).encode()

    def _is_over(self) -> bool:
        if self.judge.faults or self.loop.faults:
            self._healthy()
        return (
            self._healed
            and self._granted == len(self._wishes)
            and all(stored.ended for stored in self.store.runs.values())
        )

    def _healthy(self) -> None:
        """Raises: Broken: somebody saw what must not be."""
        for fault in self.judge.faults:
            raise Broken(fault)
        for fault in self.loop.faults:
            raise Broken(f"nobody heard of {fault.get('exception') or fault.get('message')!r}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Has somebody of the town do something; what goes wrong there is a fault of these tests."""

        def look(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                self.judge.faults.append(f"the town stands still: {done.exception()!r}")

        self.loop.spawn(self._town, work).add_done_callback(look)

    # Replicas.

    def _begin(self, name: str) -> Replica:
        """Starts an incarnation of a replica."""
        self._incarnations += 1
        owner = f"{name}/{self._incarnations}"
        process, clock = Process(owner), SetClock(self.loop)
        pools = StepPools(clock=clock, limits=_LIMITS)
        parts = EngineParts(
            store=FarStore(
                self.store,
                owner=owner,
                loop=self.loop,
                server=self._server,
                dice=self._die(),
                weather=self._weather,
                trace=self._tell,
            ),
            calls=FarCalls(judge=self.judge, loop=self.loop, dice=self._die(), manners=self._manners, trace=self._tell),
            steps=pools,
            live=self._bus,
            events=self.judge,
            clock=clock,
        )
        engine = Engine(owner=owner, parts=parts, ids=self._ids, limits=self._limits)
        replica = Replica(name, process, clock, pools, engine)
        replica.main = self.loop.spawn(process, self._live(replica))
        self._replicas.append(replica)
        self._tell(f"{owner} begins")
        return replica

    async def _live(self, replica: Replica) -> None:
        try:
            async with replica.engine.running_block():
                await replica.stop.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self.judge.faults:
                self.judge.faults.append(f"{replica.process.name} stopped by {error!r}")
            raise
        for worker in self._workers:
            stream = worker.streams.get(replica.process.name)
            if stream is not None:
                stream.end()

    def _kill(self, replica: Replica) -> None:
        self._tell(f"{replica.process.name} is killed")
        self.loop.kill(replica.process)

    def _well(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.well]

    # Those who want something.

    async def _want(self, number: int, wish: Wish) -> None:
        """Asks for a run until somebody says that it has begun."""
        await asyncio.sleep(wish.at + (4.0 if self.judge.calm else 0.0))
        key = StartKey(tenant=TENANT, kind=RunKind.SESSION, request_id=self._ids.uuid(), body=b"%d" % number)
        while True:
            asked = self._ask_for(key, wish)
            if asked is not None:
                done, _ = await asyncio.wait([asked], timeout=5.0)
                if done and asked.exception() is None:
                    self._granted += 1
                    return
                if done and not isinstance(asked.exception(), MeshError):
                    raise Broken(f"a start is refused by {asked.exception()!r}")
            await asyncio.sleep(1.0)

    def _ask_for(self, key: StartKey, wish: Wish) -> asyncio.Task[None] | None:
        well = self._well()
        if not well:
            return None
        replica = self._dice.choice(well)
        engine = replica.engine

        async def start() -> None:
            if await engine.started_before(key) is not None:
                return
            run_id = engine.new_run_id()
            run = OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
            with engine.place(TENANT):
                await engine.start(key, run, wish.of(run_id, replica.clock.now()))

        asked = self.loop.spawn(replica.process, start(), name="start")
        # Whoever asked may have gone by then.
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asked

    def _command(self, run_id: str, kind: str) -> None:
        """Has somebody ask something of a run, at any replica."""
        well = self._well()
        if not well:
            return
        self._asked += 1
        who = Principal(tenant=TENANT, subject=f"key_{self._asked}", roles=frozenset(), token=Secret("t"))
        payload = journal_pb2.SignalReceived(name="go", payload=to_value({}), by=who.subject).SerializeToString()
        replica = self._dice.choice(well)
        self._tell(f"{who.subject} asks {replica.process.name} to {kind} {run_id[-6:]}")

        async def command() -> None:
            try:
                await replica.engine.command(who, run_id, kind, payload if kind == SIGNAL else b"")
            except MeshError as error:
                self._tell(f"{who.subject} is refused: {error.reason}")

        self.loop.spawn(replica.process, command(), name="command")

    async def _work(self, worker: Worker, names: tuple[str, ...]) -> None:
        """Keeps a worker's streams, and its heart, going."""
        while True:
            for replica in self._replicas:
                if replica.well:
                    worker.dial(replica.process.name, replica.pools, replica.process)
                elif not replica.up:
                    worker.forget(replica.process.name)
            worker.beat()
            await asyncio.sleep(0.7)

    # What goes wrong.

    async def _suffer(self, names: tuple[str, ...]) -> None:
        """Has things go wrong for a while, mends everything, and has somebody help whoever waits."""
        dice, harm, weather, manners = self._die(), self.harm, self._weather, self._manners
        weather.commits_fail = weather.answers_lost = 0.15 * ("commits" in harm)
        weather.reads_fail = 0.05 * ("reads" in harm)
        weather.writes_big = 0.1 * ("big writes" in harm)
        weather.commit_seconds = dice.choice((0.0, 0.05, 0.5))
        manners.calls_fail, manners.calls_drag = 0.2 * ("calls" in harm), 0.15 * ("drag" in harm)
        # For good: whoever forgets a step is looked after, whatever else happens, or nothing else.
        manners.workers_forget = 0.5 * ("workers" in harm)
        manners.workers_err, manners.bus_loses = 0.5 * ("workers" in harm), 0.5 * ("bus" in harm)
        deeds: dict[str, Callable[[Random, tuple[str, ...]], None]] = {
            "crash": self._crash,
            "stall": self._stall,
            "twin": self._twin,
            "restart": self._restart,
            "away": self._away,
            "hang": self._hang,
            "clock": self._set_clock,
            "worker crash": self._crash_worker,
            "cut": self._cut,
            "poison": self._poison,
            "commands": self._steer,
        }
        mine = [deed for name, deed in deeds.items() if name in harm]
        if "commands" in harm:
            mine += [self._steer] * 3
        await asyncio.sleep(2.0 + 4.0 * self.judge.calm)
        end = self.loop.time() + _SUFFERING
        while mine and self.loop.time() < end:
            await asyncio.sleep(2.5 * dice.random())
            dice.choice(mine)(dice, names)
            for stored in self.store.runs.values():
                self._follows(stored)
        if not mine:
            await asyncio.sleep(_SUFFERING)
        await self._heal(names)

    async def _heal(self, names: tuple[str, ...]) -> None:
        self._tell("everything is mended")
        self._weather.commits_fail = self._weather.answers_lost = self._weather.reads_fail = 0.0
        self._weather.away_until = 0.0
        self.store.commits_end.set()
        self._manners.calls_fail = self._manners.calls_drag = 0.0
        self._manners.workers_err = self._manners.bus_loses = 0.0
        for replica in self._replicas:
            self.loop.resume(replica.process)
            replica.clock.wrong_by = 0.0
        for worker in self._workers:
            worker.crash()
        self._healed = True
        end = self.loop.time() + _HEALED_WITHIN
        while self.loop.time() < end:
            for name in names:
                self._again(name)
            await asyncio.sleep(2.0)
            self._help()
            held_up = self._held_up()
            if all(stored.ended for run_id, stored in self.store.runs.items() if run_id not in held_up):
                self.store.poison.clear()  # only now: it must not hold up anybody else
        left = [one.run.run_id for one in self.store.runs.values() if not one.ended]
        self.judge.broken(f"{left} are not at their end, {_HEALED_WITHIN:g} s after everything was mended")

    def _held_up(self) -> set[str]:
        """Gives the runs that are poison, and those that wait for one of them."""
        held_up, left = set[str](), list(self.store.poison)
        while left:
            run_id = left.pop()
            held_up.add(run_id)
            parent = self.store.runs[run_id].journal[0].run_started.run.parent_run_id
            left += [parent] if parent else []
        return held_up

    def _follows(self, stored: StoredRun) -> None:
        """Looks whether a run stands still, and goes on, with the one that waits for it."""
        parent = self.store.runs.get(stored.journal[0].run_started.run.parent_run_id)
        if parent is None or parent.ended or stored.ended or stored.commands:
            return
        asked = [entry for entry in stored.journal if entry.HasField("run_paused") or entry.HasField("run_continued")]
        others = [entry for entry in asked if parent.run.run_id not in (entry.run_paused.by, entry.run_continued.by)]
        stands, stand = stored.seen.state == run_pb2.RUN_STATE_PAUSED, parent.seen.state == run_pb2.RUN_STATE_PAUSED
        if stands != stand and not others:
            self.judge.broken(f"{stored.run.run_id}: stands still: {stands}, and its parent does: {stand}")

    def _help(self) -> None:
        """Does for each run that stands still what it waits for."""
        for run_id, stored in self.store.runs.items():
            self._follows(stored)
            stands = stored.seen.state in (run_pb2.RUN_STATE_PARKED, run_pb2.RUN_STATE_PAUSED)
            # Whoever is parked by a fault takes no signals.
            if stored.ended or any(command.kind != SIGNAL or not stands for command in stored.commands):
                continue
            match stored.seen.state:
                case run_pb2.RUN_STATE_PAUSED | run_pb2.RUN_STATE_PARKED:
                    self._command(run_id, "resume")
                case run_pb2.RUN_STATE_WAITING if stored.wake_time is not None:
                    pass  # it is woken at its moment
                case run_pb2.RUN_STATE_WAITING if isinstance(stored.seen, run_pb2.Run):
                    self._command(run_id, SIGNAL)
                case run_pb2.RUN_STATE_WAITING:
                    self._command(run_id, "advance")
                case _:
                    pass

    def _one(self, dice: Random) -> Replica | None:
        up = [replica for replica in self._replicas if replica.well]
        return dice.choice(up) if up else None

    def _crash(self, dice: Random, names: tuple[str, ...]) -> None:
        """Drops all tasks of an engine at some step of it; another incarnation follows."""
        replica = self._one(dice)
        if replica is None:
            return

        def crash() -> None:
            if replica.up:
                self._kill(replica)
                self.loop.call_later(0.1 + 20.0 * again**2, self._again, replica.name, context=self._town.context)

        again = dice.random()
        replica.process.after(dice.randint(1, 400), crash)

    def _again(self, name: str) -> None:
        if not any(replica.name == name and replica.up and not replica.stop.is_set() for replica in self._replicas):
            self._begin(name)

    def _stall(self, dice: Random, names: tuple[str, ...]) -> None:
        """Has an engine stand still at some step of it, often until long after its leases have run out."""
        replica = self._one(dice)
        if replica is not None:
            replica.process.after(dice.randint(1, 400), lambda: self._halt(replica, seconds))
            seconds = dice.choice((1.0, 8.0, 16.0, 25.0)) * (0.5 + dice.random())

    def _halt(self, replica: Replica, seconds: float) -> None:
        if replica.up and not self._healed:
            self._tell(f"{replica.process.name} stands still for {seconds:.1f} s")
            self.loop.halt(replica.process)
            self.loop.call_later(seconds, self.loop.resume, replica.process, context=self._town.context)

    def _twin(self, dice: Random, names: tuple[str, ...]) -> None:
        """Starts a replica anew while its old incarnation stands still, and does not know."""
        replica = self._one(dice)
        if replica is not None:
            self._halt(replica, 4.0 + 6.0 * dice.random())
            self._begin(replica.name)
            self.loop.call_later(20.0, self._kill, replica, context=self._town.context)

    def _restart(self, dice: Random, names: tuple[str, ...]) -> None:
        """Has a replica leave in order, and come again."""
        replica = self._one(dice)
        if replica is not None:
            self._tell(f"{replica.process.name} is told to stop")
            self.loop.call_soon(replica.stop.set, context=replica.process.context)
            self.loop.call_later(3.0, self._again, replica.name, context=self._town.context)

    def _away(self, dice: Random, names: tuple[str, ...]) -> None:
        """Has nobody reach the database for a while."""
        seconds = dice.choice((0.3, 3.0, 17.0)) * dice.random()
        self._tell(f"the database is away for {seconds:.1f} s")
        self._weather.away_until = self.loop.time() + seconds

    def _hang(self, dice: Random, names: tuple[str, ...]) -> None:
        """Has no commit end for a while."""
        seconds = dice.choice((0.1, 2.0) if self.judge.calm else (0.1, 2.0, 18.0)) * dice.random()
        self._tell(f"commits hang for {seconds:.1f} s")
        self.store.commits_end.clear()
        self.loop.call_later(seconds, self.store.commits_end.set, context=self._server.context)

    def _set_clock(self, dice: Random, names: tuple[str, ...]) -> None:
        replica = self._one(dice)
        if replica is not None:
            replica.clock.wrong_by = dice.choice((-40.0, -20.0, -1.0, 0.0, 2.0, 30.0))
            self._tell(f"the clock of {replica.process.name} is wrong by {replica.clock.wrong_by:g} s")

    def _crash_worker(self, dice: Random, names: tuple[str, ...]) -> None:
        dice.choice(self._workers).crash()

    def _cut(self, dice: Random, names: tuple[str, ...]) -> None:
        """Breaks a stream."""
        worker = dice.choice(self._workers)
        if worker.streams:
            worker.streams[dice.choice(list(worker.streams))].cut()

    def _open(self, dice: Random) -> str | None:
        runs = [run_id for run_id, stored in self.store.runs.items() if not stored.ended]
        return dice.choice(runs) if runs else None

    def _poison(self, dice: Random, names: tuple[str, ...]) -> None:
        """Has the database refuse whatever one run writes."""
        run_id = self._open(dice)
        if run_id is not None and len(self.store.poison) < 2:
            self._tell(f"{run_id[-6:]} is poison")
            self.judge.excused.add(run_id)
            self.store.poison[run_id] = ValueError("cannot be written")

    def _steer(self, dice: Random, names: tuple[str, ...]) -> None:
        run_id = self._open(dice)
        if run_id is not None:
            kinds = ("pause", "pause", "resume", "resume", "advance", "advance", SIGNAL, SIGNAL, SIGNAL, "cancel")
            self._command(run_id, dice.choice(kinds))


@contextmanager
def stage() -> Iterator[None]:
    """Sets the scene for simulations: workflows speak the language of tests, and nothing is logged.

    What engines write down here would take longer than what they do.
    """
    before = structlog.get_config()
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent, cache_logger_on_first_use=False)
    try:
        with patch.dict(PROGRAMS, TEST_PROGRAMS):  # type: ignore[arg-type]
            yield
    finally:
        structlog.configure(**before)


def first_fault(seeds: Iterable[int], *, max_runs: int = 50) -> str | None:
    """Runs seeds one after the other; says what is broken under the first one that breaks something."""
    for seed in seeds:
        try:
            Simulation(seed, max_runs=max_runs).run()
        except (Broken, Spinning, RuntimeError) as fault:
            return f"seed {seed}: {fault}"
    return None


if __name__ == "__main__":
    simulation = Simulation(int(sys.argv[1]))
    try:
        with stage():
            simulation.run()
    finally:
        sys.stdout.write("\n".join(simulation.trace) + "\n")
