"""An entry of the audit trail: as a service's feed gave it, and in its place in the tenant's chain."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from comitia_sdk.audit import merkle
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class FedEntry:
    """An entry that a service wrote."""

    stream: int
    #: Place in the stream, from 1.
    position: int
    tenant: TenantId
    record_time: datetime
    actor: str
    action: str
    target: str
    #: What is hashed.
    canonical: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedEntry:
    """An entry in its place."""

    index: int
    canonical: bytes
    leaf_hash: bytes
    chain_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An entry about to be stored."""

    index: int
    entry: FedEntry
    chain_hash: bytes
    #: Roots of the perfect trees of 2, 4, 8, … leaves that the entry ends, smallest first, 32 bytes each.
    subtrees: bytes


@dataclass(slots=True)
class ChainEnd:
    """Where a tenant's chain and tree stand."""

    tree: merkle.Tree
    chain_hash: bytes = merkle.CHAIN_START

    @classmethod
    def new(cls) -> "ChainEnd":
        """The end of a chain without entries."""
        return cls(merkle.Tree())

    def link(self, entries: Sequence[FedEntry]) -> list[Link]:
        """Puts entries behind the end, which moves."""
        links: list[Link] = []
        for entry in entries:
            index = self.tree.size
            self.chain_hash = merkle.chain_hash(self.chain_hash, entry.leaf_hash)
            ended = self.tree.append(entry.leaf_hash)
            links.append(Link(index=index, entry=entry, chain_hash=self.chain_hash, subtrees=b"".join(ended)))
        return links
