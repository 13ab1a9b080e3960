"""What the audit trail needs from outside."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.merkle import Place, Tree
from services.gateway.domain.audit_entry import ChainedEntry, FedEntry
from services.gateway.domain.audit_stream import Acknowledgement, Cursor, KnownBreak, StreamBreak
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPage:
    """What a service answered to one pull."""

    #: By stream, each in order.
    streams: Mapping[int, Sequence[FedEntry]]
    more: bool


class AuditFeed(Protocol):
    """The audit entries of one service."""

    @property
    def name(self) -> str:
        """Name of the service."""
        ...

    async def pull(self, after: Mapping[int, int], *, most: int) -> FeedPage:
        """Asks for entries after these positions by stream.

        Raises: MeshError: the service is away, or what it feeds cannot be right.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What is to be stored of one stream."""

    stream: int
    #: The cursor from which it was pulled.
    seen: Cursor
    cursor: Cursor
    fresh: Sequence[FedEntry]
    found: StreamBreak | None = None


class AuditIntake(Protocol):
    """Takes in what services wrote."""

    async def cursors(self) -> dict[str, dict[int, Cursor]]:
        """How far each stream of each service is known."""
        ...

    async def open_breaks(self) -> dict[str, int]:
        """How many breaks nobody has looked into, by service; without those that have none."""
        ...

    async def take(self, service: str, advances: Sequence[Advance], *, now: datetime) -> int:
        """Chains new entries, moves cursors and records breaks, in one transaction.

        Returns: how many entries were chained. A stream that another gateway has moved meanwhile is left out.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsigned:
    """A chain that has grown since its last head."""

    tenant: TenantId
    tree: Tree
    chain_hash: bytes


class Sealing(Protocol):
    """One transaction in which heads are signed; no other gateway signs meanwhile."""

    async def unsigned(self, tenant: TenantId | None, *, without: Collection[TenantId], most: int) -> list[Unsigned]:
        """Chains that have grown since their last head: of one tenant, or of any but some."""
        ...

    async def signed(self, heads: Mapping[TenantId, Head]) -> None:
        """Keeps copies of heads that the head store has."""
        ...

    async def commit(self) -> None:
        """Makes it durable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakCounts:
    """How many breaks of streams nobody has looked into, and how many somebody has."""

    open: int
    acknowledged: int


class GapWork(Protocol):
    """One transaction in which a gap is acknowledged; nobody else does so meanwhile."""

    async def claim_once(self) -> None:
        """Claims the running request before the work, if it has an id; a repeat of it leaves by `AnsweredBefore`."""
        ...

    async def locked(self, service: str, stream: int, position: int) -> Sequence[KnownBreak]:
        """Breaks at this place."""
        ...

    async def acknowledge(self, one: StreamBreak, given: Acknowledgement) -> None:
        """Adds an acknowledgement of a break."""
        ...

    async def keep_once(self, made: KnownBreak) -> None:
        """Keeps the answer to the running request, if it has an id."""
        ...

    async def commit(self) -> None:
        """Makes it durable."""
        ...


class BeginGapWork(Protocol):
    """Opens such a transaction for a caller of this tenant."""

    def __call__(self, tenant: TenantId, /) -> AbstractAsyncContextManager[GapWork]: ...


class AuditTrails(Protocol):
    """Reads and keeps chains, for background work over all tenants."""

    def seal(self) -> AbstractAsyncContextManager[Sealing]:
        """Opens the transaction of signing; waits for another gateway that signs."""
        ...

    async def tenants(self) -> list[TenantId]:
        """All tenants with a chain."""
        ...

    async def breaks(self, *, most: int) -> list[KnownBreak]:
        """Breaks of streams: those that nobody has looked into first, and the oldest first."""
        ...

    async def count_breaks(self) -> "BreakCounts":
        """How many breaks there are."""
        ...

    async def archivable(self, before: datetime, *, most: int) -> "Archivable | None":
        """Finds the oldest signed entries of a tenant that are older than a time, if there are any."""
        ...

    async def archived(self, part: "ArchivePart") -> None:
        """Takes the contents of archived entries out of the table; their hashes stay."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePart:
    """Entries that lie together in the archive."""

    tenant: TenantId
    first: int
    #: Index after the last.
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archivable:
    """Entries to be archived."""

    part: ArchivePart
    entries: Sequence[ChainedEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries to list; None for any."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    after_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLink:
    """A row of the chain as it lies there."""

    index: int
    #: None once it is archived.
    canonical: bytes | None
    leaf_hash: bytes
    chain_hash: bytes
    subtrees: bytes


class AuditReader(Protocol):
    """Reads the trail of one tenant."""

    async def size(self, tenant: TenantId) -> int:
        """How many entries are chained."""
        ...

    async def chain_hash(self, tenant: TenantId, index: int) -> bytes | None:
        """Chain hash of an entry."""
        ...

    async def page(self, tenant: TenantId, wanted: EntryFilter, *, before: int | None, most: int) -> list[ChainedEntry]:
        """Entries that are not archived, newest first, from below `before` on."""
        ...

    async def stretch(self, tenant: TenantId, first: int, end: int) -> list[ChainedEntry]:
        """Entries of a range that are not archived, in order."""
        ...

    async def links(self, tenant: TenantId, first: int, end: int) -> list[StoredLink]:
        """What is stored of the entries of a range, archived ones too, in order."""
        ...

    async def archive_parts(self, tenant: TenantId, first: int, end: int) -> list[ArchivePart]:
        """Parts of the archive that hold entries of a range, in order."""
        ...

    async def hashes(self, tenant: TenantId, places: Iterable[Place]) -> dict[Place, bytes]:
        """Hashes of perfect subtrees."""
        ...

    async def newest_head(self, tenant: TenantId, *, covering: int = 0) -> Head | None:
        """The newest head of more than `covering` entries."""
        ...

    async def head(self, tenant: TenantId, size: int) -> Head | None:
        """The head over so many entries."""
        ...

    async def heads(self, tenant: TenantId, *, above: int, most: int) -> list[Head]:
        """Heads over more than so many entries, oldest first."""
        ...


class HeadStore(Protocol):
    """Keeps signed heads, and the archive, where no role of the database can write. Nothing in it is ever changed."""

    async def add(self, heads: Mapping[TenantId, Head]) -> None:
        """Keeps heads; durable when it returns. Raises: Unavailable."""
        ...

    async def tenants(self) -> list[TenantId]:
        """Tenants of which it holds heads. Raises: Unavailable."""
        ...

    async def newest(self, tenant: TenantId, *, above: int = 0) -> Head | None:
        """The head over the most entries.

        Args:
            above: only heads over more than so many need to be looked at.
        Raises: Unavailable, HeadStoreDamaged.
        """
        ...

    async def put_archive(self, part: ArchivePart, lines: bytes) -> None:
        """Keeps archived entries as lines of an export; durable when it returns. Raises: Unavailable."""
        ...

    async def archive(self, part: ArchivePart) -> bytes:
        """Gives what `put_archive` kept. Raises: Unavailable, HeadStoreDamaged: it is not there."""
        ...


class HeadSigner(Protocol):
    """Signs heads."""

    def sign(self, grown: Unsigned) -> Head:
        """Signs the head of a chain as it stands."""
        ...

    @property
    def keys(self) -> AuditKeys:
        """The audit key set: this signer's key and its forerunners."""
        ...


class StatementSigner(Protocol):
    """Signs statements about runs."""

    def sign_statement(self, statement: bytes) -> str:
        """Gives a statement with its signature, a compact JWS."""
        ...

    @property
    def keys(self) -> AuditKeys:
        """See `HeadSigner.keys`: the same ones."""
        ...
