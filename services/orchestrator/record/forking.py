"""Makes the first facts of a fork from those of the run that it is forked from.

The fork's own ids stand in what its program decides, so everything that was decided is decided anew; what came from
outside is taken over as it is. So a fork's journal follows from its program alone, like any other.

    RunStarted ─▶ … facts taken over … ─▶ RunForked (what is pinned from here on) ─▶ … ─▶ calls that are to be made
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from comitia.orchestrator.v1 import agent_pb2, journal_pb2

#: Facts that a fork takes over at most; one commit has to hold them.
MAX_FACTS: Final = 20_000
MAX_BYTES: Final = 32 * 1024 * 1024
#: Answers of calls that act on the world, kept for a dry fork, and their bytes.
_MAX_ANSWERS: Final = 256
_MAX_ANSWER_BYTES: Final = 1024 * 1024
#: Facts that only say how calls fare. The fork's calls fare by themselves.
_OF_THE_ENGINE: Final = frozenset({"run_parked", "run_resumed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedIds:
    """What a fork has of its own."""

    run_id: str
    grant_id: str
    budget_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a fork pins otherwise. Empty values keep what was pinned."""

    topic: str = ""
    #: Already as it is recorded; None keeps it.
    input: "journal_pb2.RunStarted | None" = None
    model: str = ""
    #: By the name of the agent whose place it takes, `name@version`.
    agents: Mapping[str, agent_pb2.Agent] = field(default_factory=dict[str, agent_pb2.Agent])
    max_cost: int = 0
    dry_effects: bool = True
