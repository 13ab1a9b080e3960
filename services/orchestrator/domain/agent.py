"""The rules of agents: what a definition may hold, and how versions are named and ordered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.meshkit.core.errors import Invalid

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_TOOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}(@\d+\.\d+\.\d+)?")
MAX_INSTRUCTIONS: Final = 16_000
MAX_DESCRIPTION: Final = 500
MAX_MODEL: Final = 200
MAX_OUTPUT_TOKENS: Final = 32_768
MAX_TOOLS: Final = 32
MAX_TOOL_CALLS: Final = 16
MAX_PLANNED_TOOL_CALLS: Final = 1_000
MAX_RECENT_TURNS: Final = 50
MAX_SEMANTIC_MATCHES: Final = 20
MAX_STYLES: Final = 16
MAX_TEMPERATURE: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """How an agent uses memory."""

    recent_turns: int = 0
    semantic_matches: int = 0
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One immutable version of an agent."""

    name: str
    version: str
    instructions: str = ""
    description: str = ""
    model: str = ""
    max_output_tokens: int = 0
    temperature: float | None = None
    tools: tuple[str, ...] = ()
    max_tool_calls: int = 0
    #: True when it writes a plan first, and what tools answer is filled in outside of its model.
    plans: bool = False
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    style: Mapping[str, float] = field(default_factory=dict[str, float])
    #: SHA-256 of the canonical definition, hex; empty until it is stored.
    digest: str = ""
    create_time: datetime | None = None

    def checked(self) -> "Agent":
        """Gives the agent back if its definition is one that can run.

        Raises: Invalid, naming the field under `agent`.
        """
        check_name(self.name, field="agent.name")
        parse_version(self.version, field="agent.version")
        _at_most("agent.instructions", len(self.instructions), MAX_INSTRUCTIONS, "characters")
        _at_most("agent.description", len(self.description), MAX_DESCRIPTION, "characters")
        _at_most("agent.model", len(self.model), MAX_MODEL, "characters")
        _between("agent.max_output_tokens", self.max_output_tokens, 0, MAX_OUTPUT_TOKENS)
        most_calls = MAX_PLANNED_TOOL_CALLS if self.plans else MAX_TOOL_CALLS
        _between("agent.max_tool_calls", self.max_tool_calls, 0, most_calls)
        _between("agent.memory.recent_turns", self.memory.recent_turns, 0, MAX_RECENT_TURNS)
        _between("agent.memory.semantic_matches", self.memory.semantic_matches, 0, MAX_SEMANTIC_MATCHES)
        _at_most("agent.tools", len(self.tools), MAX_TOOLS, "tools")
        for index, tool in enumerate(self.tools):
            if _TOOL_NAME.fullmatch(tool) is None:
                raise Invalid(f"agent.tools[{index}]", "must be the name of a registered tool")
        if self.temperature is not None and not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise Invalid("agent.temperature", "must be 0 to 2")
        self._check_style()
        return self

    def _check_style(self) -> None:
        _at_most("agent.style", len(self.style), MAX_STYLES, "weights")
        for name, weight in self.style.items():
            if not 0 <= weight <= 1 or not name or len(name) > 64:
                raise Invalid(f"agent.style[{name!r}]", "must be a name of 1 to 64 characters with a weight of 0 to 1")


def check_name(name: str, *, field: str) -> str:
    """Gives the name back if an agent may have it. Raises: Invalid."""
    if _NAME.fullmatch(name) is None:
        raise Invalid(field, "must be 1 to 63 letters, digits, `_` and `-`, starting with a letter")
    return name


def parse_version(version: str, *, field: str) -> tuple[int, int, int]:
    """Reads a semantic version such as `1.0.0`. Raises: Invalid."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise Invalid(field, "must be a version such as 1.0.0")
    return int(match[1]), int(match[2]), int(match[3])


def split_reference(reference: str, *, field: str) -> tuple[str, str]:
    """Splits `name` or `name@version` into name and version, which is empty when not given. Raises: Invalid."""
    name, at, version = reference.partition("@")
    check_name(name, field=field)
    if at:
        parse_version(version, field=field)
    return name, version


def named_version(reference: str, version: str) -> tuple[str, str]:
    """Gives the name and the version that a request asks for, in either of two fields; empty for the highest.

    Raises: Invalid: the fields `name` and `version` contradict each other, or make no sense.
    """
    name, said = split_reference(reference, field="name")
    if said and version not in ("", said):
        raise Invalid("version", f"must be empty or {said}, as the name says")
    return name, said or version


def _at_most(field: str, count: int, limit: int, unit: str) -> None:
    if count > limit:
        raise Invalid(field, f"must have at most {limit} {unit}, has {count}", limit=limit)


def _between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise Invalid(field, f"must be {low} to {high}, is {value}")
