"""What the measured cost of a step says about engines, loads and delays that were not measured.

Runs are in two cohorts, as the engine decides on arrival: one is in the commit, the other with the worker or on its
way. So a tick lasts as long as its commit, or as long as the processors need for all that is done meanwhile.
"""

from dataclasses import dataclass, field
from typing import Final, Self

CORES: Final = 2
#: Steps of a tick in the forecast.
_GROWN_TICK: Final = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one measurement gave; processor times in microseconds per step."""

    steps_per_s: float
    cpu: dict[str, float]
    stages: dict[str, float]
    steps_per_tick: float
    commit_ms: float
    gaps_ms: list[float] = field(repr=False)
    #: Cores that were busy with others.
    strangers: float

    @property
    def total(self) -> float:
        """Of all processes together."""
        return sum(self.cpu.values())

    @property
    def note(self) -> str:
        """Says what it was made of."""
        spent = ", ".join(f"{name} {micros:.1f}" for name, micros in self.cpu.items())
        return (
            f"CPU us/step: {spent}; {self.steps_per_tick:.0f} steps a tick, commit {self.commit_ms:.1f} ms; "
            f"{self.strangers:.1f} cores busy with others"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """So many microseconds for each tick, and so many for each step in it."""

    tick: float
    step: float

    @classmethod
    def through(cls, small: float, steps: float, big: float, more_steps: float) -> Self:
        """From what ticks of two sizes took, microseconds."""
        if more_steps <= steps:
            return cls(tick=0.0, step=big / more_steps)
        step = max(0.0, (big - small) / (more_steps - steps))
        return cls(tick=max(0.0, big - step * more_steps), step=step)

    def of(self, steps: float) -> float:
        """Microseconds of a tick of so many steps."""
        return self.tick + self.step * steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Fitted to one engine without delay, at two loads."""

    lines: dict[str, Line]
    #: Wall time of a tick beside what processors and delay explain, as a part of what they do.
    slack: float
    #: Steps of a tick, as a part of the runs.
    gathered: float

    @classmethod
    def of(cls, few: Sample, many: Sample) -> Self:
        """From the same engine with some runs and with many."""

        def line(small: float, big: float) -> Line:
            return Line.through(
                small * few.steps_per_tick, few.steps_per_tick, big * many.steps_per_tick, many.steps_per_tick
            )

        lines = {name: line(few.cpu[name], many.cpu[name]) for name in few.cpu}
        lines["commit"] = line(few.commit_ms * 1e3 / few.steps_per_tick, many.commit_ms * 1e3 / many.steps_per_tick)
        plain = cls(lines=lines, slack=1.0, gathered=(few.steps_per_tick / 100 + many.steps_per_tick / 500) / 2)
        said = [
            plain.steps_per_s(1, runs, delay_ms=0.0, strangers=sample.strangers) / sample.steps_per_s
            for runs, sample in ((100, few), (500, many))
        ]
        return cls(lines=lines, slack=sum(said) / len(said), gathered=plain.gathered)

    def steps_per_s(self, engines: int, runs: int, *, delay_ms: float, strangers: float) -> float:
        """Steps per second of all engines together.

        Args:
            runs: on each engine.
            strangers: cores that others keep busy.
        """
        steps = self.gathered * runs
        own = self.lines["engine"].of(steps)
        everything = own + sum(line.of(steps) for name, line in self.lines.items() if name in ("postgres", "worker"))
        free = max(0.5, CORES - strangers)
        # What an engine does while its commit is away overlaps with it; what all do together shares the cores.
        processors = max(own / min(1.0, free), engines * everything / free)
        delay = delay_ms * 1e3
        tick = max(processors * self.slack, self.lines["commit"].of(steps) + delay)
        if delay:
            tick = max(tick, self.lines["commit"].of(steps) + delay)
        return engines * steps / tick * 1e6

    def cores_at(self, steps_per_s: int) -> dict[str, float]:
        """Cores that so many steps a second need, kind by kind."""
        return {
            name: self.lines[name].of(_GROWN_TICK) / _GROWN_TICK * steps_per_s / 1e6
            for name in ("engine", "postgres", "worker")
        }
