"""What the measured costs per step and per tick say about engines and delays that were not measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from report import report

if TYPE_CHECKING:
    from experiment import Case, Sample

CORES = 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """So much for each tick, so much for each step in it."""

    tick: float
    step: float

    @classmethod
    def through(cls, small: float, steps: float, big: float, more_steps: float) -> Self:
        """From what ticks of two sizes took."""
        step = (big - small) / (more_steps - steps)
        return cls(tick=max(0.0, small - step * steps), step=step)

    def of(self, steps: float) -> float:
        return self.tick + self.step * steps


@dataclass(frozen=True, kw_only=True)
class Model:
    """How long a tick lasts: milliseconds, straight lines through what one engine showed without delay.

    Up to a frame of runs goes round as one: commit, worker, and back; nothing overlaps. More of them are in two
    cohorts, one in the commit, the other on its way; then a tick lasts as long as the commit and the engine's own work
    one after the other, or the longer of the two where they overlap. No more than the machine has is there for all.
    """

    round_trip: Line
    commit: Line
    engine: Line
    postgres: Line
    everything: Line

    @classmethod
    def of(cls, alone: "Sample", few: "Sample", many: "Sample") -> Self:
        """From one run, some runs in one cohort, and two cohorts; strictly one after the other, so nothing hides."""

        def processor(of: Callable[["Sample"], float]) -> Line:
            small, big = (of(sample) * sample.steps_per_tick / 1e3 for sample in (few, many))
            return Line.through(small, few.steps_per_tick, big, many.steps_per_tick)

        def cycle_ms(sample: "Sample") -> float:
            return sample.steps_per_tick / sample.steps_per_s * 1e3

        return cls(
            round_trip=Line.through(cycle_ms(alone), 1, cycle_ms(few), few.steps_per_tick),
            commit=Line.through(alone.commit_ms, 1, many.commit_ms, many.steps_per_tick),
            engine=processor(lambda sample: sample.cpu["engine"]),
            postgres=processor(lambda sample: sample.cpu["postgres"]),
            everything=processor(lambda sample: sample.total),
        )

    def steps_per_s(self, case: "Case") -> float:
        """Steps per second of all engines together."""
        features = case.features
        steps = case.runs if case.runs <= features.frame else min(features.frame, case.runs / 2)
        commit, own = self.commit.of(steps) + features.delay_ms, self.engine.of(steps)
        if case.runs <= features.frame:
            tick_ms = self.round_trip.of(steps) + features.delay_ms
        elif features.overlap == "none":
            tick_ms = commit + own
        else:
            tick_ms = max(commit, own)
        return min(case.engines * steps / tick_ms, CORES * steps / self.everything.of(steps)) * 1e3

    def constants(self) -> list[tuple[str, float, str, str]]:
        """Figure, value, unit, note."""
        return [
            (name, line.step * 1e3, "us/step", f"and {line.tick:.2f} ms per tick; {note}")
            for name, line, note in (
                ("round_trip", self.round_trip, "wall, one cohort"),
                ("commit", self.commit, "wall"),
                ("engine", self.engine, "processor"),
                ("postgres", self.postgres, "processor"),
                ("everything", self.everything, "processor"),
            )
        ]

    def grow(self, steps_per_s: int, steps: int = 200) -> None:
        """Cores that so many steps per second need, kind by kind."""
        engine, postgres, everything = (
            line.of(steps) / steps for line in (self.engine, self.postgres, self.everything)
        )
        per_step = {"engines": engine, "postgres": postgres, "workers": everything - engine - postgres}
        for name, spent in per_step.items():
            note = f"ticks of {steps} steps; an engine has one core at most"
            report(f"model.cores_at_{steps_per_s}.{name}", spent * steps_per_s / 1e3, "cores", "lower", note)
