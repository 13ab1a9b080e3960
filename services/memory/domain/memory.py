"""One thing remembered, and the limits of what may be."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from hashlib import sha256
from typing import Final, NewType
from uuid import UUID

from services.meshkit.content import (
    BlobPart,
    CallContext,
    DocumentPart,
    ImagePart,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
)
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid

MemoryId = NewType("MemoryId", UUID)

MAX_PARTS: Final = 16
MAX_CONTENT_BYTES: Final = 64 * 1024
MAX_TAGS: Final = 16
MAX_TAG: Final = 64
MAX_AGENT_NAME: Final = 63
DEFAULT_RING_TTL: Final = timedelta(days=1)
MAX_RING_TTL: Final = timedelta(days=3650)
#: The contract's measure: a token is taken as four bytes.
_BYTES_PER_TOKEN: Final = 4
#: Characters of a memory that are embedded; models read less.
_EMBEDDED_CHARACTERS: Final = 8_000


class Placement(IntEnum):
    """How far a memory has come on its way to being found by similarity."""

    #: Has no text, or is forgotten: no vector belongs to it.
    NONE = 0
    #: Waits for a caller's token to be embedded with.
    PENDING = 1
    #: Its vector is recorded in Postgres and waits to be put into the vector store.
    RECORDED = 2
    #: In the vector store.
    PLACED = 3
    #: Forgotten; its vector waits to be deleted from the vector store.
    ERASING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One thing remembered. Never changes but for its placement, until it is forgotten."""

    id: MemoryId
    tenant: TenantId
    #: Whose it is: runs of other projects never find it. Empty for one that belongs to none.
    project: str
    session: UUID | None
    #: Empty for one that belongs to no agent.
    agent: str
    #: Empty once forgotten.
    parts: tuple[Part, ...]
    tags: tuple[str, ...]
    created: datetime
    #: When it leaves the session's ring; None outside sessions.
    expires: datetime | None
    placement: Placement
    #: Of the call that made it: what embedding it spends from, and where its content must stay.
    context: CallContext
    #: The verdict it passed.
    verdict_id: str

    @property
    def tokens(self) -> int:
        """Size of the content in the contract's tokens, >= 1."""
        return max(1, -(-content_bytes(self.parts) // _BYTES_PER_TOKEN))

    @property
    def embeddable_text(self) -> str:
        """What stands for the memory when it is embedded; blank when nothing does."""
        return text_of(self.parts)[:_EMBEDDED_CHARACTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembrance:
    """A checked request to remember."""

    tenant: TenantId
    #: True for a call of a service of the mesh. Outside callers name calls in a space of their own.
    from_mesh: bool
    context: CallContext
    session: UUID | None
    agent: str
    parts: tuple[Part, ...]
    tags: tuple[str, ...]
    ring_ttl: timedelta
    #: SHA-256 of what is asked for: the same call must ask for the same.
    digest: bytes

    @property
    def project(self) -> str:
        """Whose memory it becomes; empty for none's."""
        return self.context.project

    @property
    def call_key(self) -> bytes:
        """Identity of the call within the tenant."""
        return sha256(f"{'mesh' if self.from_mesh else 'outside'}:{self.context.call_id}".encode()).digest()

    def to_memory(self, memory_id: MemoryId, parts: tuple[Part, ...], *, now: datetime, verdict_id: str) -> Memory:
        """Makes the memory of the parts that the law let pass."""
        memory = Memory(
            id=memory_id,
            tenant=self.tenant,
            project=self.project,
            session=self.session,
            agent=self.agent,
            parts=parts,
            tags=self.tags,
            created=now,
            expires=None if self.session is None else now + self.ring_ttl,
            placement=Placement.PENDING,
            context=self.context,
            verdict_id=verdict_id,
        )
        return memory if memory.embeddable_text.strip() else replace(memory, placement=Placement.NONE)


def name_of(memory_id: MemoryId) -> str:
    """Writes the id as callers see it."""
    return from_uuid("memory", memory_id)


def checked_parts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Gives the parts back if they may be remembered.

    Raises: Invalid: none, too many, all empty, or more than 64 KB.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise Invalid("parts", f"must hold 1 to {MAX_PARTS} parts")
    size = content_bytes(parts)
    if size == 0:
        raise Invalid("parts", "must hold something to remember")
    if size > MAX_CONTENT_BYTES:
        raise Invalid(
            "parts",
            f"must hold at most {MAX_CONTENT_BYTES} bytes of content; store large content as a blob and name it",
            size_bytes=size,
            most_bytes=MAX_CONTENT_BYTES,
        )
    return parts


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Gives the tags back, each once.

    Raises: Invalid, naming the tag.
    """
    found = tuple(dict.fromkeys(tags))
    if len(found) > MAX_TAGS:
        raise Invalid("tags", f"must hold at most {MAX_TAGS} tags")
    for index, tag in enumerate(found):
        if not 1 <= len(tag) <= MAX_TAG or not tag.isprintable():
            raise Invalid(f"tags[{index}]", f"must be 1 to {MAX_TAG} printable characters")
    return found


def checked_agent(name: str) -> str:
    """Gives the name of an agent back, or the empty text.

    Raises: Invalid.
    """
    if len(name) > MAX_AGENT_NAME or not name.isprintable():
        raise Invalid("agent_name", f"must be at most {MAX_AGENT_NAME} printable characters")
    return name


def checked_ring_ttl(seconds: int) -> timedelta:
    """Reads how long a memory stays in the ring; 0 means a day.

    Raises: Invalid.
    """
    if not 0 <= seconds <= MAX_RING_TTL.total_seconds():
        raise Invalid("ring_ttl_seconds", f"must be 0 (a day) to {int(MAX_RING_TTL.total_seconds())}")
    return timedelta(seconds=seconds) if seconds else DEFAULT_RING_TTL


def content_bytes(parts: Iterable[Part]) -> int:
    """Measures content without labels, in bytes."""
    return sum(_size_of(part) for part in parts)


def _size_of(part: Part) -> int:
    match part.content:
        case TextPart(text):
            return len(text.encode())
        case ImagePart(data=data):
            return len(data)
        case DocumentPart(data=data, title=title):
            return len(data) + len(title.encode())
        case ToolCallPart(name=name, arguments=arguments):
            return len(name.encode()) + len(json.dumps(arguments, ensure_ascii=False).encode())
        case ToolResultPart(name=name, text=text):
            return len(name.encode()) + len(text.encode())
        case BlobPart(blob_id=blob_id, media_type=media_type):
            return len(blob_id.encode()) + len(media_type.encode())
