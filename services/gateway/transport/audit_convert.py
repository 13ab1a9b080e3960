"""Between messages of the audit trail and the domain. Pure functions."""

from datetime import UTC

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia_sdk.audit.canonical import read_entry
from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_entry import ChainedEntry
from services.gateway.domain.audit_stream import KnownBreak
from services.gateway.transport.convert import timestamp
from services.gateway.usecases.acknowledge_gap import Acknowledge
from services.gateway.usecases.audit_ports import EntryFilter
from services.gateway.usecases.audit_status import TrailStatus
from services.gateway.usecases.read_audit import Exported
from services.meshkit.core.errors import Invalid


def to_filter(request: pb.ListAuditEntriesRequest) -> EntryFilter:
    """Reads which entries are wanted. Raises: Invalid."""
    after = None
    if request.HasField("after_time"):
        try:
            after = request.after_time.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise Invalid("after_time", "is no time between the years 1 and 9999") from error
    return EntryFilter(
        actor=_text(request.actor, "actor"),
        action=_text(request.action, "action"),
        target=_text(request.target, "target"),
        after_time=after,
    )


def entry_to_proto(entry: ChainedEntry) -> pb.ChainedAuditEntry:
    """Writes an entry in its place."""
    return pb.ChainedAuditEntry(
        index=entry.index,
        entry=read_entry(entry.canonical),
        canonical=entry.canonical,
        leaf_hash=entry.leaf_hash,
        chain_hash=entry.chain_hash,
    )


def head_to_proto(head: Head) -> pb.AuditHead:
    """Writes a head."""
    written = pb.AuditHead(
        tenant_id=head.tenant_id,
        size=head.size,
        root_hash=head.root_hash,
        chain_hash=head.chain_hash,
        key_id=head.key_id,
        signature=head.signature,
    )
    written.sign_time.FromJsonString(head.sign_time)
    return written


def exported_to_proto(line: Exported, sequence: int) -> pb.ExportAuditResponse:
    """Writes one line of an export."""
    if line.entry is not None:
        return pb.ExportAuditResponse(entry=entry_to_proto(line.entry), sequence=sequence)
    if line.head is not None:
        return pb.ExportAuditResponse(head=head_to_proto(line.head), sequence=sequence)
    key_set = "" if line.keys is None else line.keys.to_json().decode()
    return pb.ExportAuditResponse(key_set=key_set, sequence=sequence)


def status_to_proto(status: TrailStatus) -> pb.GetAuditStatusResponse:
    """Writes the state of a trail."""
    return pb.GetAuditStatusResponse(
        gaps=[gap_to_proto(one) for one in status.breaks],
        acknowledged_gaps=status.acknowledged,
        size=status.size,
        head=None if status.head is None else head_to_proto(status.head),
        unreachable_services=status.unreachable,
        contradiction=status.contradiction or "",
        whole=status.whole,
    )


def gap_to_proto(one: KnownBreak) -> pb.GetAuditStatusResponse.Gap:
    """Writes a gap."""
    written = pb.GetAuditStatusResponse.Gap(
        service=one.found.service,
        stream=one.found.stream,
        position=one.found.position,
        notice_time=timestamp(one.notice_time),
    )
    if one.acknowledged is not None:
        written.acknowledgement.actor = one.acknowledged.actor
        written.acknowledgement.acknowledge_time.CopyFrom(timestamp(one.acknowledged.time))
        written.acknowledgement.reason = one.acknowledged.reason
    return written


def to_acknowledge(request: pb.AcknowledgeAuditGapRequest) -> Acknowledge:
    """Reads which gap was looked into. Raises: Invalid."""
    if not _text(request.service, "service"):
        raise Invalid("service", "is required; `comitia audit status` names it")
    return Acknowledge(service=request.service, stream=request.stream, position=request.position, reason=request.reason)


def _text(value: str, field: str) -> str | None:
    if "\0" in value:
        raise Invalid(field, "must not hold the character NUL")
    return value or None
