"""Exports of an audit trail as a mesh would make them, and what a forger would make of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comitia.common.v1.audit_pb2 import AUDIT_OUTCOME_REFUSED, AUDIT_OUTCOME_SUCCEEDED, AuditEntry
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import canonical_entry, timestamp_text
from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.lines import entry_line, head_line, key_set_line

TENANT = "tenant_01jx0000000000000000000000"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def an_entry(number: int, *, tenant_id: str = TENANT, service: str = "cost", **fields: object) -> AuditEntry:
    """Makes the entry that stands at `number` (from 0) of a tenant which is alone with one stream."""
    entry = AuditEntry(
        service=service,
        stream=1,
        position=number + 1,
        tenant_id=tenant_id,
        actor="key_01jx0000000000000000000000",
        action="budgets.limit",
        target=f"budget_{number}",
        outcome=AUDIT_OUTCOME_REFUSED if number % 7 == 3 else AUDIT_OUTCOME_SUCCEEDED,
        **fields,  # pyright: ignore[reportArgumentType]
    )
    entry.record_time.FromDatetime(NOON + timedelta(seconds=number))
    return entry


@dataclass(frozen=True, slots=True)
class AuditKey:
    """A signing key of a gateway."""

    key_id: str = "audit-1"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> AuditKeys:
        """The key set in which its public half stands."""
        return AuditKeys({self.key_id: self.private.public_key().public_bytes_raw()})

    def head(self, tree: merkle.Tree, chain: bytes, *, tenant_id: str = TENANT) -> Head:
        """Signs a head."""
        unsigned = Head(
            tenant_id=tenant_id,
            size=tree.size,
            root_hash=tree.root(),
            chain_hash=chain,
            sign_time=timestamp_text(int(NOON.timestamp()) + tree.size, 0),
            key_id=self.key_id,
        )
        return unsigned.signed(self.private.sign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The lines of an export."""

    entries: Sequence[bytes]
    heads: Sequence[Head]
    keys: bytes

    @property
    def lines(self) -> list[bytes]:
        """All of them."""
        return [*self.entries, *(head_line(head) for head in self.heads), self.keys]


def an_export(entries: int | Iterable[AuditEntry], *, key: AuditKey, head_at: Sequence[int]) -> Export:
    """Makes a whole export, with heads over these sizes."""
    listed = [an_entry(number) for number in range(entries)] if isinstance(entries, int) else list(entries)
    tree, chain = merkle.Tree(), merkle.CHAIN_START
    lines: list[bytes] = []
    heads: list[Head] = []
    for index, entry in enumerate(listed):
        canonical = canonical_entry(entry)
        leaf = merkle.leaf_hash(canonical)
        chain = merkle.chain_hash(chain, leaf)
        tree.append(leaf)
        lines.append(entry_line(index, canonical, leaf, chain))
        if tree.size in head_at:
            heads.append(key.head(tree, chain))
    return Export(entries=lines, heads=heads, keys=key_set_line(key.public, {key.key_id}))
