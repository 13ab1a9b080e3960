"""Renders the prompt of a turn from the files that the run pinned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.content import Label

#: Prompt file of each mode.
PROMPT_FILES: Final[Mapping[int, str]] = {
    session_pb2.SESSION_MODE_DEBATE: "debate.j2",
    session_pb2.SESSION_MODE_BRAINSTORM: "brainstorm.j2",
    session_pb2.SESSION_MODE_CONSENSUS: "consensus.j2",
    session_pb2.SESSION_MODE_DIALOGUE: "dialogue.j2",
    session_pb2.SESSION_MODE_ANSWER: "task.j2",
}
#: Prompt file of a turn that is a step of a workflow.
TASK_FILE: Final = "task.j2"
#: Prompt file of an agent's system message.
SYSTEM_FILE: Final = "system.j2"
#: An earlier turn is shown to the next speaker up to this many characters, so that prompts stay bounded.
SHOWN_CHARACTERS: Final = 1_200

_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What somebody said earlier."""

    speaker: str
    text: str
    #: Not below the label of any part of the text: who is shown it, has read it (INV-10).
    label: Label

    @property
    def shown(self) -> str:
        """The text, cut to what the next speaker is shown."""
        return self.text if len(self.text) <= SHOWN_CHARACTERS else f"{self.text[:SHOWN_CHARACTERS]} …"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that a prompt file may show."""

    topic: str
    agent: str
    others: Sequence[str]
    round: int
    max_rounds: int
    position: int
    recent: Sequence[Said]
    memories: Sequence[str]
    #: What it is given to work on, by name.
    data: Mapping[str, str]
    #: JSON Schema that the answer has to fit. Empty when it may be any text.
    answer_schema: str


def render_prompt(prompts: Mapping[str, str], file: str, scene: Scene) -> str:
    """Renders what the agent is asked in this turn."""
    return _render(prompts[file], scene=scene)


def render_system(prompts: Mapping[str, str], *, agent: str, instructions: str, insights: Sequence[str]) -> str:
    """Renders the agent's system message."""
    return _render(prompts[SYSTEM_FILE], agent=agent, instructions=instructions, insights=insights)


def render(prompts: Mapping[str, str], file: str, **values: object) -> str:
    """Renders any other prompt file."""
    return _render(prompts[file], **values)


def _render(source: str, **values: object) -> str:
    return _compiled(source).render(**values).strip()


@lru_cache(maxsize=256)
def _compiled(source: str) -> Template:
    """Compiles a prompt file once: a quarter of the orchestrator's time went there."""
    return _ENVIRONMENT.from_string(source)
