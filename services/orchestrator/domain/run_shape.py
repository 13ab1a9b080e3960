"""What a run will ask for, as far as that shows before it begins: turns, other work, and what waits for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

#: Bytes of text that one token covers, in the middle of the vocabularies in use and of the languages people write.
BYTES_PER_TOKEN: Final = 4.0
#: An earlier turn is shown to the next speaker up to so many tokens (`prompting.SHOWN_CHARACTERS`).
SHOWN_TOKENS: Final = 300.0


class Amount(IntEnum):
    """What is estimated of a run."""

    INPUT_TOKENS = 0
    OUTPUT_TOKENS = 1
    #: Nano-USD.
    COST = 2
    #: Of work: without waits for signals, people and timers.
    SECONDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a model costs, nano-USD per million tokens."""

    input: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnShape:
    """A turn of an agent."""

    #: Name without version: what its versions do is alike, and what is learnt of one holds for the next.
    agent: str
    #: Model that it asks.
    model: str
    #: Bytes of what it is shown that are known: instructions, prompt, data.
    given_bytes: int
    #: Parts, by their place, whose answers it is shown.
    reads: tuple[int, ...] = ()
    #: How many of the texts that were said before it is shown, on average.
    heard: float = 0.0
    #: Longest answer, tokens.
    max_output: int
    #: Tools that it may call, and most calls of them in a turn.
    tools: int = 0
    max_tool_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartShape:
    """A node of a workflow, or the turns of one agent in a session."""

    #: Where it lies, as steps of the run are found by it.
    place: str
    #: Parts, by their place in the shape, that end before it begins; all of them come earlier.
    after: tuple[int, ...] = ()
    #: True when it may be passed over for a reason that only the run shows.
    conditional: bool = False
    #: How many times it is made, and whether that is known or the middle of what may be.
    items: float = 1.0
    items_known: bool = True
    #: How many of them are made at once.
    parallel: int = 1
    turn: TurnShape | None = None
    #: `tool:<name>` or `step:<name>` for other work; empty for none.
    work: str = ""
    #: The run that it starts.
    run: "RunShape | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunShape:
    """A whole run."""

    #: `workflow:<name>` or `session:<mode>/<strategy>`: runs of one name are compared with one another.
    name: str
    #: `name@version`; of a session its mode.
    reference: str
    parts: Sequence[PartShape]

    def turns(self) -> list[TurnShape]:
        """Gives all kinds of turns, with those of the runs that it starts."""
        return [part.turn for run in self.runs() for part in run.parts if part.turn is not None]

    def works(self) -> list[str]:
        """Gives the names of all other work, with that of the runs that it starts."""
        return [part.work for run in self.runs() for part in run.parts if part.work]

    def runs(self) -> list["RunShape"]:
        """Gives it and the runs that it starts, each shape once however many nodes start it."""
        found: dict[int, RunShape] = {}
        waiting: list[RunShape] = [self]
        while waiting:
            run = waiting.pop()
            if id(run) not in found:
                found[id(run)] = run
                waiting += [part.run for part in run.parts if part.run is not None]
        return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTurn:
    """A turn, or other work, as it was made."""

    #: Place of its part in the shape.
    part: int
    input_tokens: int
    output_tokens: int
    seconds: float
    #: Nano-USD.
    cost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """What a run took that has ended."""

    #: By amount.
    totals: tuple[float, float, float, float]
    #: Some of its turns and other work.
    turns: Sequence[SeenTurn] = ()
    #: How many times each part was made; 0 for one that was passed over. By the part's place in the shape.
    made: Mapping[int, int] = field(default_factory=dict[int, int])
