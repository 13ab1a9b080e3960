"""gRPC face of the audit trail."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia.gateway.v1.audit_service_pb2_grpc import AuditServiceServicer as AuditServiceBase
from comitia.gateway.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from services.gateway.transport import audit_convert
from services.gateway.usecases.acknowledge_gap import AcknowledgeGap
from services.gateway.usecases.audit_ports import AuditReader
from services.gateway.usecases.audit_status import AuditStatus
from services.gateway.usecases.prove_audit import ProveConsistency, ProveEntry
from services.gateway.usecases.read_audit import ExportAudit
from services.gateway.usecases.sign_provenance import SignProvenance
from services.meshkit.core.errors import Invalid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once
from services.meshkit.grpc.server import Registration


class AuditServicer(AuditServiceBase):
    """Converts, calls one use case or the reader, converts back. The tenant is that of the caller's token."""

    def __init__(
        self,
        *,
        reader: AuditReader,
        export: ExportAudit,
        prove_entry: ProveEntry,
        prove_consistency: ProveConsistency,
        status: AuditStatus,
        acknowledge: AcknowledgeGap,
        sign_provenance: SignProvenance,
    ) -> None:
        self._reader = reader
        self._export = export
        self._prove_entry = prove_entry
        self._prove_consistency = prove_consistency
        self._status = status
        self._acknowledge = acknowledge
        self._sign_provenance = sign_provenance

    @property
    def registration(self) -> Registration:
        """Adds this servicer to a server."""
        return partial(add_AuditServiceServicer_to_server, self)

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        """See `audit_service.proto`, as the other methods."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, int)
        wanted = audit_convert.to_filter(request)
        before = None if place is None else _index(place[0], "page_token")
        found = await self._reader.page(caller_of(context).principal.tenant, wanted, before=before, most=size + 1)
        page, more = one_page(found, size, lambda entry: (entry.index,))
        return pb.ListAuditEntriesResponse(
            entries=[audit_convert.entry_to_proto(entry) for entry in page], next_page_token=more
        )

    async def ExportAudit(self, request: pb.ExportAuditRequest, context: Any) -> AsyncGenerator[pb.ExportAuditResponse]:
        sequence = 0
        first = _index(request.from_index, "from_index")
        async for line in self._export(caller_of(context).principal.tenant, first=first):
            sequence += 1
            yield audit_convert.exported_to_proto(line, sequence)

    async def ProveAuditEntry(self, request: pb.ProveAuditEntryRequest, context: Any) -> pb.ProveAuditEntryResponse:
        proof = await self._prove_entry(caller_of(context).principal.tenant, request.index, size=request.size)
        return pb.ProveAuditEntryResponse(
            entry=audit_convert.entry_to_proto(proof.entry),
            path=proof.path,
            head=audit_convert.head_to_proto(proof.head),
        )

    async def ProveAuditConsistency(
        self, request: pb.ProveAuditConsistencyRequest, context: Any
    ) -> pb.ProveAuditConsistencyResponse:
        tenant = caller_of(context).principal.tenant
        proof = await self._prove_consistency(tenant, request.first_size, request.second_size)
        return pb.ProveAuditConsistencyResponse(
            first=audit_convert.head_to_proto(proof.first),
            second=audit_convert.head_to_proto(proof.second),
            path=proof.path,
        )

    async def GetAuditStatus(self, request: pb.GetAuditStatusRequest, context: Any) -> pb.GetAuditStatusResponse:
        return audit_convert.status_to_proto(await self._status(caller_of(context)))

    async def AcknowledgeAuditGap(
        self, request: pb.AcknowledgeAuditGapRequest, context: Any
    ) -> pb.AcknowledgeAuditGapResponse:
        caller, command = caller_of(context), audit_convert.to_acknowledge(request)
        return await once(
            request,
            lambda: self._acknowledge(caller, command),
            lambda gap: pb.AcknowledgeAuditGapResponse(gap=audit_convert.gap_to_proto(gap)),
            answers=pb.AcknowledgeAuditGapResponse,
        )

    async def SignProvenance(self, request: pb.SignProvenanceRequest, context: Any) -> pb.SignProvenanceResponse:
        signed = self._sign_provenance(caller_of(context).principal.tenant, request.statement)
        return pb.SignProvenanceResponse(jws=signed.jws, key_set=signed.key_set)


def _index(value: int, field: str) -> int:
    """Raises: Invalid: no index; what the database cannot hold is none either."""
    if not 0 <= value < 2**63:
        raise Invalid(field, "must be the index of an entry, from 0")
    return value
