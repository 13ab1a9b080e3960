"""Runs from a seeded generator: the shipped workflows in versions, inputs of any length, answers of varying length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from services.orchestrator.domain.run_shape import PartShape, Prices, RunShape, SeenRun, SeenTurn, TurnShape
from tests.support import shipped_workflows

PRICES = {
    "small": Prices(input=150_000_000, output=600_000_000),
    "large": Prices(input=2_500_000_000, output=10_000_000_000),
}
#: By agent: model, logarithm of its answer's tokens, how much longer it speaks of longer texts, and how it strays.
_AGENTS = {
    "Athena": ("large", 5.0, 0.25, 0.30),
    "Apollo": ("small", 4.4, 0.10, 0.45),
    "Hermes": ("small", 5.6, 0.35, 0.25),
    "invoice_summary": ("large", 4.8, 0.30, 0.35),
}
#: How often a node is made for which a condition decides.
_CHANCES = {"nodes/pay": 0.8}
_CHANCE = 0.3
_LONGEST = shipped_workflows.LONGEST_ANSWER


@dataclass(frozen=True)
class Generated:
    """One run: what shows of it before, and what it took."""

    shape: RunShape
    version: int
    input_bytes: int
    seen: SeenRun


def a_turn(agent: str, given: int, *reads: int) -> TurnShape:
    """Makes a turn."""
    return TurnShape(agent=agent, model=_AGENTS[agent][0], given_bytes=given, reads=reads, max_output=_LONGEST)


def greet(version: int, size: int) -> RunShape:
    """A chain of one turn and, by version, more."""
    parts = [PartShape(place="hello", turn=a_turn("Athena", 200 + size))]
    parts += [
        PartShape(place=f"again{more}", after=(more,), turn=a_turn("Apollo", 150, more)) for more in range(version)
    ]
    return RunShape(name="workflow:greet", reference=f"greet@1.{version}.0", parts=parts)


def claim(version: int, size: int) -> RunShape:
    """A judge, a branch that is taken at times, and what comes of it."""
    parts = [
        PartShape(place="judge", turn=a_turn("Athena", 300 + size)),
        PartShape(place="appeal", after=(0,), conditional=True, turn=a_turn("Hermes", 400 + size, 0)),
        PartShape(place="pay", after=(0,), work="step:payments.pay"),
    ]
    parts += [
        PartShape(place=f"letter{more}", after=(0,), turn=a_turn("Apollo", 250 + 60 * more, 0))
        for more in range(version)
    ]
    return RunShape(name="workflow:claim", reference=f"claim@1.{version}.0", parts=parts)


def summaries(version: int, size: int, pages: int) -> RunShape:
    """A map whose list shows before it runs, and, by version, an editor after it."""
    parts = [
        PartShape(place="each", items=pages, parallel=8, turn=a_turn("Apollo", 120 + size // max(pages, 1))),
        PartShape(place="whole", after=(0,)),
    ]
    parts += [
        PartShape(place=f"edit{more}", after=(1 + more,), turn=a_turn("Hermes", 300, 1)) for more in range(version)
    ]
    return RunShape(name="workflow:summaries", reference=f"summaries@1.{version}.0", parts=parts)


def generate(seed: int, count: int) -> Sequence[Generated]:
    """Makes runs in the order in which they ended."""
    random = Random(seed)
    return [one_run(random) for _ in range(count)]


def one_run(random: Random, *, longer: float = 1.0) -> Generated:
    """Makes a run of any of the workflows.

    Args:
        longer: every answer is so many times as long.
    """
    version, size = random.randrange(shipped_workflows.VERSIONS), an_input_length(random)
    name = random.choice(shipped_workflows.names())
    shape = shipped_workflows.shape(name, version, shipped_workflows.an_input(name, size, random))
    return Generated(shape=shape, version=version, input_bytes=size, seen=make(random, shape, longer))


def an_input_length(random: Random) -> int:
    """Gives the length of the texts of an input, bytes: a hundred to twenty thousand, seldom beyond."""
    return int(math.exp(random.gauss(7.3, 0.8)))


def make(random: Random, shape: RunShape, longer: float = 1.0) -> SeenRun:
    """Makes a run of a shape."""
    alike = random.gauss(0, 0.12)
    said: list[float] = []
    ends: list[float] = []
    turns: list[SeenTurn] = []
    made: dict[int, int] = {}
    read_all = said_all = money = 0.0
    for place, part in enumerate(shape.parts):
        if part.conditional and random.random() > _CHANCES.get(part.place, _CHANCE):
            made[place] = 0
            said.append(0.0)
            ends.append(max((ends[before] for before in part.after), default=0.0))
            continue
        items, took, spoken = int(part.items), 0.0, 0.0
        made[place] = items
        for _ in range(items):
            if part.turn is None:
                seconds = random.lognormvariate(0.2, 0.3) if part.work else 0.0
                if part.work.startswith("tool:"):
                    spoken += random.lognormvariate(5.5, 0.5)
                if part.work:
                    turns.append(SeenTurn(part=place, input_tokens=0, output_tokens=0, seconds=seconds))
            else:
                _, height, slope, stray = _AGENTS[part.turn.agent]
                shown = part.turn.given_bytes / 3.7 + sum(said[before] for before in part.turn.reads)
                read = int(40 + shown * random.lognormvariate(0, 0.05))
                answer = height + slope * math.log(read / 400) + alike + random.gauss(0, stray)
                tokens = min(max(1, int(longer * math.exp(answer))), _LONGEST)
                seconds = (0.4 + tokens / 90) * random.lognormvariate(0, 0.15)
                price = PRICES[part.turn.model]
                read_all, said_all, spoken = read_all + read, said_all + tokens, spoken + tokens
                money += (read * price.input + tokens * price.output) / 1e6
                turns.append(SeenTurn(part=place, input_tokens=read, output_tokens=tokens, seconds=seconds))
            took += seconds
        # Places of a map beside one another.
        rounds = took * math.ceil(items / part.parallel) / max(items, 1)
        said.append(spoken or sum(said[before] for before in part.after))
        ends.append(max((ends[before] for before in part.after), default=0.0) + rounds)
    return SeenRun(totals=(read_all, said_all, money, max(ends)), turns=turns, made=made)
