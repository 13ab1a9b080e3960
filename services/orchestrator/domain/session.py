"""The rules of a session's request: limits and defaults."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.agent import split_reference
from services.orchestrator.domain.terms import check_terms

MAX_TOPIC: Final = 16_000
MAX_AGENTS: Final = 16
MAX_ROUNDS: Final = 100
DEFAULT_ROUNDS: Final = 3
_NONE: Final = NanoUsd(0)
_STEP_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_POOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


class Mode(IntEnum):
    """What the agents are asked to do with the topic; numbers as in the contract."""

    DEBATE = 1
    BRAINSTORM = 2
    CONSENSUS = 3
    DIALOGUE = 4
    ANSWER = 5


class Strategy(IntEnum):
    """Who speaks when; numbers as in the contract."""

    ROUND_ROBIN = 1
    PARALLEL = 2
    MODERATED = 3
    STEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """When a session counts as converged; thresholds of 0 mean the default, or not measured."""

    enabled: bool = False
    jaccard: float = 0.0
    semantic: float = 0.0
    stagnation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """What a caller asks for, as it came."""

    topic: str
    #: Number of the mode; 0 when none was given.
    mode: int
    #: Number of the strategy; 0 when none was given.
    strategy: int
    #: `name` or `name@version`, in order of speech.
    agents: Sequence[str]
    #: None means the default.
    max_rounds: int | None = None
    convergence: Convergence = field(default_factory=Convergence)
    manual_advance: bool = False
    #: 0 means the default.
    max_cost: NanoUsd = _NONE
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str = ""
    #: Of MODERATED: `name` or `name@version` of the agent that picks who speaks.
    moderator: str = ""
    #: Of STEP: name and pool of the worker's step that says who speaks.
    step: tuple[str, str] | None = None

    def checked(self) -> "SessionSpec":
        """Gives the request back if it can be carried out. Raises: Invalid, naming the field."""
        if not self.topic.strip() or len(self.topic) > MAX_TOPIC:
            raise Invalid("topic", f"must be 1 to {MAX_TOPIC} characters, has {len(self.topic)}")
        if self.mode not in set(Mode):
            raise Invalid("mode", f"must be one of {', '.join(f'SESSION_MODE_{mode.name}' for mode in Mode)}")
        if self.strategy not in {0, *Strategy}:
            raise Invalid("strategy", f"must be one of {', '.join(f'SESSION_STRATEGY_{one.name}' for one in Strategy)}")
        if self.max_rounds is not None and not 1 <= self.max_rounds <= MAX_ROUNDS:
            sentence = f"must be 1 to {MAX_ROUNDS}, or left out for {DEFAULT_ROUNDS}; is {self.max_rounds}"
            raise Invalid("max_rounds", sentence)
        check_terms(max_cost=self.max_cost, metadata=self.metadata, model=self.model)
        self._check_agents()
        self._check_who_picks()
        self._check_convergence()
        return self

    def _check_agents(self) -> None:
        if not 1 <= len(self.agents) <= MAX_AGENTS:
            raise Invalid("agents", f"must name 1 to {MAX_AGENTS} agents, names {len(self.agents)}")
        for index, reference in enumerate(self.agents):
            split_reference(reference, field=f"agents[{index}]")
        if len(set(self.agents)) < len(self.agents):
            raise Invalid("agents", "must not name an agent twice")

    def _check_who_picks(self) -> None:
        if (self.strategy == Strategy.MODERATED) != bool(self.moderator):
            raise Invalid("moderator", "is required for SESSION_STRATEGY_MODERATED, and only there")
        if (self.strategy == Strategy.STEP) != (self.step is not None):
            raise Invalid("strategy_step", "is required for SESSION_STRATEGY_STEP, and only there")
        if self.moderator:
            split_reference(self.moderator, field="moderator")
        if self.step is not None:
            name, pool = self.step
            if _STEP_NAME.fullmatch(name) is None:
                sentence = "must be 1 to 63 letters, digits, `_`, `-` and `.`, starting with a letter"
                raise Invalid("strategy_step.name", sentence)
            if pool and _POOL.fullmatch(pool) is None:
                sentence = (
                    "must be 1 to 63 letters, digits, `_` and `-`, starting with a letter, or empty for `default`"
                )
                raise Invalid("strategy_step.pool", sentence)

    def _check_convergence(self) -> None:
        thresholds = {
            "jaccard_threshold": self.convergence.jaccard,
            "semantic_threshold": self.convergence.semantic,
            "stagnation_threshold": self.convergence.stagnation,
        }
        for name, value in thresholds.items():
            if not 0 <= value <= 1:
                raise Invalid(f"convergence.{name}", f"must be 0 to 1, is {value}")
