"""The rules of a session's request: limits and defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import MAX_NANO_USD, NANO_PER_USD, NanoUsd
from services.orchestrator.domain.agent import split_reference

MAX_TOPIC: Final = 16_000
MAX_AGENTS: Final = 16
MAX_ROUNDS: Final = 100
DEFAULT_ROUNDS: Final = 3
_NONE: Final = NanoUsd(0)
DEFAULT_MAX_COST: Final = NanoUsd(1 * NANO_PER_USD)
MAX_METADATA: Final = 32
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 256
#: The value of the key `project`, to which every call of the session is charged.
MAX_PROJECT: Final = 128
MAX_MODEL: Final = 200


class Mode(IntEnum):
    """What the agents are asked to do with the topic; numbers as in the contract."""

    DEBATE = 1
    BRAINSTORM = 2
    CONSENSUS = 3
    DIALOGUE = 4


class Strategy(IntEnum):
    """Who speaks when; numbers as in the contract."""

    ROUND_ROBIN = 1
    PARALLEL = 2


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
        if not 0 <= self.max_cost <= MAX_NANO_USD:
            raise Invalid("max_cost_nano_usd", "must be > 0, or 0 for the default of 1 USD")
        if len(self.model) > MAX_MODEL:
            raise Invalid("model", f"must have at most {MAX_MODEL} characters")
        self._check_agents()
        self._check_convergence()
        self._check_metadata()
        return self

    def _check_agents(self) -> None:
        if not 1 <= len(self.agents) <= MAX_AGENTS:
            raise Invalid("agents", f"must name 1 to {MAX_AGENTS} agents, names {len(self.agents)}")
        for index, reference in enumerate(self.agents):
            split_reference(reference, field=f"agents[{index}]")
        if len(set(self.agents)) < len(self.agents):
            raise Invalid("agents", "must not name an agent twice")

    def _check_convergence(self) -> None:
        thresholds = {
            "jaccard_threshold": self.convergence.jaccard,
            "semantic_threshold": self.convergence.semantic,
            "stagnation_threshold": self.convergence.stagnation,
        }
        for name, value in thresholds.items():
            if not 0 <= value <= 1:
                raise Invalid(f"convergence.{name}", f"must be 0 to 1, is {value}")

    def _check_metadata(self) -> None:
        if len(self.metadata) > MAX_METADATA:
            raise Invalid("metadata", f"must have at most {MAX_METADATA} keys, has {len(self.metadata)}")
        for key, value in self.metadata.items():
            if not 1 <= len(key) <= MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
                raise Invalid(
                    f"metadata[{key[:MAX_METADATA_KEY]!r}]",
                    f"must be a key of 1 to {MAX_METADATA_KEY} characters and a value of at most {MAX_METADATA_VALUE}",
                )
        project = self.metadata.get("project", "")
        if len(project) > MAX_PROJECT or "\x00" in project:
            raise Invalid("metadata['project']", f"must have at most {MAX_PROJECT} characters, none of them NUL")
