"""How a conversation comes together from a request, and where in the request each part of it stands. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from services.inference.domain.prompt import Prompt
from services.inference.domain.prompt_limits import checked_prompt
from services.inference.transport.doors.labels import BROUGHT, SAID
from services.meshkit.content import Label, Message, MessageRole, Part, ToolCallPart, ToolResultPart
from services.meshkit.core.errors import Invalid, MeshError

Failure = TypeVar("Failure", bound=MeshError)
_PLACED: Final = re.compile(r"messages\[(\d+)\](?:\.parts\[(\d+)\])?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a dialect calls what our checks call otherwise."""

    #: Behind the place of a part, such as `.tool_call.arguments`.
    parts: Mapping[str, str]
    #: Everywhere else.
    fields: Sequence[tuple[re.Pattern[str], str]]


@dataclass(slots=True)
class Conversation:
    """Messages as they come together, one part after the other."""

    words: Words
    _roles: list[MessageRole] = field(default_factory=list[MessageRole])
    _speakers: list[str] = field(default_factory=list[str])
    #: Of each message.
    _parts: list[list[Part]] = field(default_factory=list[list[Part]])
    _places: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])
    #: Tools by the ids of their calls.
    _tools: dict[str, str] = field(default_factory=dict[str, str])
    _told: bool = False

    @property
    def role(self) -> MessageRole | None:
        """Who speaks now; None before anybody does."""
        return self._roles[-1] if self._roles else None

    @property
    def of_model(self) -> Label:
        """The label of what a model says now: it may have read what a tool said."""
        return BROUGHT if self._told else SAID

    def begin(self, role: MessageRole, place: str, *, name: str | None = None) -> None:
        """Begins a message."""
        self._roles.append(role)
        self._speakers.append(name or "")
        self._parts.append([])
        self._places.append((place, []))

    def add(self, part: Part, place: str) -> None:
        """Adds a part to the message that was begun last."""
        self._parts[-1].append(part)
        self._places[-1][1].append(place)

    def call(self, call: ToolCallPart, label: Label, place: str) -> None:
        """Adds a tool call."""
        self._tools[call.tool_call_id] = call.name
        self.add(Part(call, label), place)

    def result(self, tool_call_id: str, text: str, place: str, *, failed: bool = False) -> None:
        """Adds what a tool is said to have said. From here on a model may have read it."""
        self._told = True
        name = self._tools.get(tool_call_id, "")
        self.add(Part(ToolResultPart(tool_call_id=tool_call_id, name=name, text=text, failed=failed), BROUGHT), place)

    def messages(self) -> tuple[Message, ...]:
        """Gives what was said."""
        said = zip(self._roles, self._speakers, self._parts, strict=True)
        return tuple(Message(role=role, name=name, parts=tuple(parts)) for role, name, parts in said)

    def checked(self, prompt: Prompt) -> Prompt:
        """Gives a prompt of these messages back when it keeps all limits. Raises: Invalid, as the dialect names it."""
        try:
            return checked_prompt(prompt)
        except Invalid as refused:
            raise self.in_dialect(refused) from refused

    def in_dialect(self, failure: Failure) -> Failure:
        """Gives the same failure with the name that the field has in the request."""
        if failure.field is None:
            return failure
        name = self._name_of(failure.field)
        return failure if name == failure.field else failure.about(name)

    def _name_of(self, name: str) -> str:
        placed = _PLACED.fullmatch(name)
        if placed is not None and int(placed[1]) < len(self._places):
            message, parts = self._places[int(placed[1])]
            place = message if placed[2] is None else parts[int(placed[2])]
            return f"{place}{self.words.parts.get(placed[3], placed[3])}"
        for ours, theirs in self.words.fields:
            name = ours.sub(theirs, name)
        return name
