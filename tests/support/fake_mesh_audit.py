"""The audit trail of the fake mesh: real hashes and a real key, no server and no database."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from comitia.common.v1.audit_pb2 import AuditEntry
from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import canonical_entry
from comitia_sdk.audit.head import Head
from comitia_sdk.audit.merkle import Place, Tree
from services.meshkit.core.errors import ErrorKind, NotFound
from tests.support.audit_export import AuditKey, an_entry
from tests.support.fake_mesh_rooms import Refused, one_page


@dataclass(slots=True)
class Audit:
    """A trail of five entries, signed over the first two and over all; `write` adds some that are not signed yet."""

    key: AuditKey = field(default_factory=AuditKey)
    entries: list[pb.ChainedAuditEntry] = field(default_factory=list[pb.ChainedAuditEntry])
    heads: dict[int, Head] = field(default_factory=dict[int, Head])
    hashes: dict[Place, bytes] = field(default_factory=dict[Place, bytes])
    tree: Tree = field(default_factory=Tree)
    gaps: list[pb.GetAuditStatusResponse.Gap] = field(default_factory=list[pb.GetAuditStatusResponse.Gap])
    contradiction: str = ""
    #: So many refusals of unsigned entries later a head is signed; None for never.
    signs_after: int | None = None
    #: The entry whose proof it gives whatever it is asked for; None for the right one.
    shows_instead: int | None = None
    #: True ends exports before their last line.
    cut_short: bool = False

    def __post_init__(self) -> None:
        for number in range(5):
            self.write(an_entry(number))
            if number in (1, 4):
                self.sign()

    def write(self, entry: AuditEntry) -> None:
        """Chains an entry."""
        canonical = canonical_entry(entry)
        leaf = merkle.leaf_hash(canonical)
        before = self.entries[-1].chain_hash if self.entries else merkle.CHAIN_START
        index = self.tree.size
        for level, node in enumerate((leaf, *self.tree.append(leaf))):
            self.hashes[Place(level, index >> level)] = node
        self.entries.append(
            pb.ChainedAuditEntry(
                index=index,
                entry=entry,
                canonical=canonical,
                leaf_hash=leaf,
                chain_hash=merkle.chain_hash(before, leaf),
            )
        )

    def sign(self) -> None:
        """Signs a head over all entries."""
        self.heads[self.tree.size] = self.key.head(self.tree, self.entries[-1].chain_hash)

    def rewrite(self, entries: Iterable[AuditEntry]) -> None:
        """Chains and signs others in the place of what was there."""
        self.entries, self.heads, self.hashes, self.tree = [], {}, {}, Tree()
        for entry in entries:
            self.write(entry)
        self.sign()

    def ListAuditEntries(self, request: Any, _context: Any) -> pb.ListAuditEntriesResponse:
        found = [
            one
            for one in reversed(self.entries)
            if request.actor in ("", one.entry.actor)
            and request.action in ("", one.entry.action)
            and request.target in ("", one.entry.target)
            and one.entry.record_time.seconds >= request.after_time.seconds
        ]
        page, token = one_page(found, request)
        return pb.ListAuditEntriesResponse(entries=page, next_page_token=token)

    def ExportAudit(self, request: Any, _context: Any) -> Iterator[pb.ExportAuditResponse]:
        if self.tree.size not in self.heads:
            self.sign()
        keys = self.key.public.to_json().decode()
        lines = [
            *(pb.ExportAuditResponse(entry=one) for one in self.entries[request.from_index :]),
            *(pb.ExportAuditResponse(head=head_message(head)) for head in self.heads.values()),
            *(() if self.cut_short else (pb.ExportAuditResponse(key_set=keys),)),
        ]
        for sequence, line in enumerate(lines, start=1):
            line.sequence = sequence
            yield line

    def ProveAuditEntry(self, request: Any, _context: Any) -> pb.ProveAuditEntryResponse:
        if request.index >= self.tree.size:
            raise NotFound("audit entry", str(request.index), field="index")
        size = request.size or max(self.heads)
        if size <= request.index:
            if self.signs_after is not None:
                self.signs_after -= 1
                if self.signs_after <= 0:
                    self.sign()
            raise Refused(ErrorKind.PRECONDITION, "NOT_YET_SIGNED", "no signed head covers the entry yet")
        index = request.index if self.shows_instead is None else self.shows_instead
        return pb.ProveAuditEntryResponse(
            entry=self.entries[index],
            path=merkle.inclusion_path(index, size, self.hashes),
            head=head_message(self.heads[size]),
        )

    def ProveAuditConsistency(self, request: Any, _context: Any) -> pb.ProveAuditConsistencyResponse:
        second = request.second_size or max(self.heads)
        if request.first_size not in self.heads or second not in self.heads:
            raise NotFound("signed head", str(request.first_size))
        return pb.ProveAuditConsistencyResponse(
            first=head_message(self.heads[request.first_size]),
            second=head_message(self.heads[second]),
            path=merkle.consistency_path(request.first_size, second, self.hashes),
        )

    def GetAuditStatus(self, _request: Any, _context: Any) -> pb.GetAuditStatusResponse:
        open_gaps = [gap for gap in self.gaps if not gap.HasField("acknowledgement")]
        return pb.GetAuditStatusResponse(
            gaps=self.gaps,
            size=self.tree.size,
            head=head_message(self.heads[max(self.heads)]),
            unreachable_services=["memory"] if open_gaps else [],
            contradiction=self.contradiction,
            whole=not open_gaps and not self.contradiction,
            acknowledged_gaps=len(self.gaps) - len(open_gaps),
        )

    def AcknowledgeAuditGap(self, request: Any, _context: Any) -> pb.AcknowledgeAuditGapResponse:
        place = (request.service, request.stream, request.position)
        for gap in self.gaps:
            if (gap.service, gap.stream, gap.position) == place:
                if gap.HasField("acknowledgement"):
                    sentence = f"{gap.acknowledgement.actor} has acknowledged this gap before"
                    raise Refused(ErrorKind.PRECONDITION, "GAP_ACKNOWLEDGED", sentence)
                gap.acknowledgement.actor = "key_1"
                gap.acknowledgement.reason = request.reason
                return pb.AcknowledgeAuditGapResponse(gap=gap)
        raise NotFound("audit gap", "/".join(map(str, place)))


def head_message(head: Head) -> pb.AuditHead:
    """Writes a head as the gateway does."""
    message = pb.AuditHead(
        tenant_id=head.tenant_id,
        size=head.size,
        root_hash=head.root_hash,
        chain_hash=head.chain_hash,
        key_id=head.key_id,
        signature=head.signature,
    )
    message.sign_time.FromJsonString(head.sign_time)
    return message
