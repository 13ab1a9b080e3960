"""Learns from runs that have ended what the next ones will take."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final
from uuid import UUID

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RecordDestroyed, RunArchived, RunNotFound
from services.orchestrator.domain.estimator import Estimate, learn
from services.orchestrator.domain.run_shape import Amount, Prices, RunShape, SeenRun
from services.orchestrator.programs.run_view import RunProjection
from services.orchestrator.record.run_shapes import shape_of
from services.orchestrator.record.seen_runs import seen_run
from services.orchestrator.usecases.estimate_ports import EstimatedRun, Lesson, LessonPlan
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns, labels_of
from services.orchestrator.usecases.run_access import PROJECT
from services.orchestrator.usecases.runs_below import RunsBelow

log = logger(__name__)

_AT_ONCE: Final = 32
#: A run of more facts is not learnt from: reading it would take a minute, and teach no more than one run does.
_MOST_FACTS: Final = 20_000
#: Runs that cannot be read now, which are left out until the process starts anew.
_MOST_FAILED: Final = 1_000
#: A run is noted when it is this old: those that began at the same time elsewhere are recorded by then.
_SETTLED: Final = timedelta(minutes=1)
#: Older ones are passed by: where more runs end than are read, the latest ones teach.
_LOOKED_BACK: Final = timedelta(days=1)
_FORGET_SECONDS: Final = 3_600.0
#: A UUIDv7 begins with 48 bits of Unix time in milliseconds.
_TIME_SHIFT: Final = 80
#: Of a model whose price nobody has asked for: its answers cost so many times what its prompts do.
_OUTPUT_PRICE: Final = 4


@dataclass(frozen=True, slots=True)
class _Read:
    run_id: str
    shape: RunShape
    seen: SeenRun
    project: str
    end_time: datetime


class LearnFromRuns:
    """Background work of every replica; each run is learnt from once."""

    def __init__(
        self, *, plan: LessonPlan, runs: RecordedRuns, below: RunsBelow, clock: Clock, pause: timedelta
    ) -> None:
        self._plan = plan
        self._runs = runs
        self._below = below
        self._clock = clock
        self._pause = pause.total_seconds()
        #: Bounded by _MOST_FAILED.
        self._failed: set[tuple[TenantId, str]] = set()
        self._forget_at = 0.0

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            busy = False
            try:
                busy = await self.round() == _AT_ONCE
            except MeshError as error:
                log.warning("runs are not learnt from right now", cause=error.message)
            await self._clock.sleep(self._pause / 10 if busy else self._pause)

    async def round(self) -> int:
        """Learns from runs that have ended; says how many it looked at. Raises: MeshError."""
        due = await self._plan.due(most=_AT_ONCE, but=[run_id for _, run_id in self._failed])
        for tenant, runs in groupby(due, key=lambda one: one[0]):
            await self._learn(tenant, [run_id for _, run_id in runs])
        if len(due) < _AT_ONCE:
            # Only who has caught up looks for more.
            settled = self._clock.now() - _SETTLED
            await self._plan.gather(_id_at(settled - _LOOKED_BACK), _id_at(settled))
            if self._clock.monotonic() >= self._forget_at:
                _, more = await self._plan.forget_old()
                if not more:
                    self._forget_at = self._clock.monotonic() + _FORGET_SECONDS
        return len(due)

    async def _learn(self, tenant: TenantId, run_ids: Sequence[str]) -> None:
        read = {run_id: await self._read(tenant, run_id) for run_id in run_ids}
        able = [run_id for run_id in run_ids if (tenant, run_id) not in self._failed]
        async with self._plan.lesson(tenant) as lesson:
            taken = await lesson.take(able)
            told = [one for run_id in able if run_id in taken and (one := read[run_id]) is not None]
            await _teach(lesson, told)

    async def _read(self, tenant: TenantId, run_id: str) -> _Read | None:
        """Reads a run; None for one that nothing is to be learnt from."""
        try:
            run = await self._runs.of_tenant(tenant, run_id)
            return await self._read_facts(run)
        except (RunNotFound, RunArchived, RecordDestroyed):
            return None
        except Exception as error:
            if isinstance(error, MeshError) and error.kind is ErrorKind.UNAVAILABLE:
                raise
            # The others go on: one may have a fact that cannot be read, or a definition of another release.
            if len(self._failed) < _MOST_FAILED:
                self._failed.add((tenant, run_id))
            log.exception("a run is not learnt from", run_id=run_id)
            return None

    async def _read_facts(self, run: RecordedRun) -> _Read | None:
        started = run.started
        if started is None or run.last_sequence > _MOST_FACTS:
            return None
        forked = started.run.forked_from_run_id or started.session.forked_from_run_id
        if forked:
            return None  # a part of it, another run has paid for
        projection, sequence = RunProjection(keep_steps=True), 0
        async for entry in run.entries():
            sequence += 1
            projection.take(entry, sequence)
        if projection.run.state != run_pb2.RUN_STATE_SUCCEEDED:
            return None  # it stopped somewhere on its way
        shape = shape_of(started, await self._below.of(run.tenant, started))
        return _Read(
            run_id=run.run_id,
            shape=shape,
            seen=seen_run(projection.run, projection.steps(), shape),
            project=labels_of(started).get(PROJECT, ""),
            end_time=projection.run.end_time.ToDatetime(tzinfo=UTC),
        )


def _id_at(moment: datetime) -> UUID:
    """Gives the lowest id of what was made then."""
    return UUID(int=int(moment.timestamp() * 1000) << _TIME_SHIFT)


async def _teach(lesson: Lesson, runs: Sequence[_Read]) -> None:
    habits, prices = await lesson.habits([one.shape for one in runs])
    known, learnt = dict(prices), list[EstimatedRun]()
    for one in runs:
        for model, price in _prices_seen(one).items():
            known.setdefault(model, price)
        given = learn(one.shape, one.seen, habits, known)
        learnt.append(_estimated(one, given))
        await asyncio.sleep(0)  # a few milliseconds each: others have their turn in between
        money = given.of(Amount.COST)
        if given.calibrated_on:
            held = money.low <= one.seen.totals[Amount.COST] <= money.high
            metrics.RUN_ESTIMATES.labels("covered" if held else "missed").inc()
        else:
            metrics.RUN_ESTIMATES.labels("uncalibrated").inc()
    await lesson.keep(habits, {model: price for model, price in known.items() if model not in prices}, learnt)


def _prices_seen(read: _Read) -> dict[str, Prices]:
    """Tells from a run's own turns what its models cost, about: as long as nobody has had an estimate made."""
    sums: dict[str, tuple[int, int]] = {}
    for one in read.seen.turns:
        turn = read.shape.parts[one.part].turn
        if turn is not None:
            cost, tokens = sums.get(turn.model, (0, 0))
            weighed = one.input_tokens + _OUTPUT_PRICE * one.output_tokens
            sums[turn.model] = cost + one.cost, tokens + weighed
    return {
        model: Prices(input=cost * 1_000_000 // tokens, output=_OUTPUT_PRICE * cost * 1_000_000 // tokens)
        for model, (cost, tokens) in sums.items()
        if tokens
    }


def _estimated(read: _Read, given: Estimate) -> EstimatedRun:
    read_, said, money, seconds = read.seen.totals
    return EstimatedRun(
        run_id=read.run_id,
        name=read.shape.name,
        reference=read.shape.reference,
        project=read.project,
        estimated=given.whole(),
        actual=(round(read_), round(said), round(money), round(seconds * 1_000)),
        calibrated_on=given.calibrated_on,
        end_time=read.end_time,
    )
