"""The layer that drafts the audit entry of a control-plane mutation, and records its refusal.

What succeeds is written by the mutation's own transaction (`meshkit.sql.scope`), or by one that the read commits
first. What was refused has none, so this layer hands it to the `RefusalLog` of the service. It lies around identity,
so that it sees whom the guard turns away.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc.aio

from services.meshkit.core.audit import AuditDraft, current_draft, enter_draft, plain
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.grpc.call import current_call
from services.meshkit.grpc.client_address import ClientAddresses, Connection
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.guard import Admitted, GuardMissing
from services.meshkit.telemetry.scope import current_scope

if TYPE_CHECKING:
    from services.meshkit.core.identity import Principal
    from services.meshkit.grpc.interceptors import Context, Handler, Rpc

_RECORDED: Final = frozenset(
    {
        ErrorKind.UNAUTHENTICATED,
        ErrorKind.DENIED,
        ErrorKind.NOT_FOUND,
        ErrorKind.EXISTS,
        ErrorKind.PRECONDITION,
        ErrorKind.CONFLICT,
        ErrorKind.EXHAUSTED,
    }
)
#: Refusals that say nothing about the caller: the same call is taken a moment later.
_PASSING: Final = frozenset(
    {"RATE_LIMITED", "REQUEST_IN_PROGRESS", "TRANSACTION_CONFLICT", "DATABASE_BUSY", "QUEUE_FULL"}
)


class RefusalLog(Protocol):
    """Writes entries of calls that were refused."""

    async def add(self, draft: AuditDraft, reason: str) -> None:
        """Returns when the entry is durable, or when it was given up because there are too many; raises nothing."""
        ...


def auditing(rpc: Rpc, inner: Handler) -> Handler:
    """Has one entry written for each call of a control-plane mutation or of a read of great reach.

    Refused calls of other reads get one where a tenant wants it.
    """
    try:
        guard = rpc.admission.guard(rpc.method)
    except GuardMissing:
        return inner
    if guard.open or rpc.handler.request_streaming:
        return inner
    action, method = guard.permission or rpc.method[1:], rpc.method[1:]

    async def recorded(request: Any, context: Context) -> Any:
        draft = AuditDraft(action=action, method=method, request_hash=sha256(request).digest())
        enter_draft(draft)
        try:
            return await inner(request, context)
        except (MeshError, grpc.aio.AioRpcError) as error:
            if not draft.written:
                await _record(rpc, draft, error, context)
            raise

    async def read(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except (MeshError, grpc.aio.AioRpcError) as error:
            if rpc.refusals is not None and rpc.admission.standing is not None:
                draft = AuditDraft(action=action, method=method, request_hash=sha256(request).digest())
                await _record(rpc, draft, error, context, read=True)
            raise

    return recorded if guard.audit or guard.audit_read else read


def name_caller(admitted: Admitted, connection: Connection, *, addresses: ClientAddresses) -> None:
    """Writes into the draft of the running call who makes it, and from where."""
    draft = current_draft()
    if draft is not None and admitted.principal is not None:
        _name(draft, admitted.principal, admitted.peer, addresses.of(connection))


def name_request(request: Any) -> None:
    """Writes into the draft of the running call which request it is."""
    draft = current_draft()
    if draft is not None:
        draft.request_id = plain(str(getattr(request, "request_id", "")))


async def _record(
    rpc: Rpc, draft: AuditDraft, error: MeshError | grpc.aio.AioRpcError, context: Context, *, read: bool = False
) -> None:
    refusal = error if isinstance(error, MeshError) else remote_error(error)
    if rpc.refusals is None or not _is_recorded(refusal):
        return
    call = current_call()
    if draft.tenant is None:
        if call is None or call.principal is None:
            # Nobody has proven anything.
            return
        _name(draft, call.principal, call.peer, rpc.admission.addresses.of(context))
    if read and not _wants_reads(rpc, draft):
        return
    await rpc.refusals.add(draft, refusal.reason)


def _is_recorded(refusal: MeshError) -> bool:
    return refusal.kind in _RECORDED and refusal.reason not in _PASSING and refusal.retry_after is None


def _wants_reads(rpc: Rpc, draft: AuditDraft) -> bool:
    standing = rpc.admission.standing
    return standing is not None and draft.tenant is not None and standing.audits_refused_reads(draft.tenant)


def _name(draft: AuditDraft, principal: Principal, peer: str | None, address: str) -> None:
    draft.name_actor(principal.tenant, principal.subject, peer=peer)
    draft.correlation_id = plain(current_scope().correlation_id)
    # A neighbour calls from inside the mesh; where its own caller sits, it does not pass on.
    draft.source_address = "" if peer is not None else address
