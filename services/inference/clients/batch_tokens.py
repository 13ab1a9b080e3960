"""Tokens of batches: a grant and our workload assertion, exchanged at the gateway. A `BatchTokens`."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import grpc.aio

from comitia.gateway.v1 import identity_service_pb2
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.inference.domain.batch_job import BatchJob
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

_SECONDS: Final = 5.0
#: A token is exchanged anew this long before it stops working: longer than one look at a batch uses it at a stretch.
_MARGIN: Final = timedelta(minutes=4)
#: Tokens kept; the one exchanged the longest ago goes first.
_MOST_TOKENS: Final = 1_000


class BatchGrants:
    """Exchanges grants, and keeps the tokens while they are fresh."""

    def __init__(self, to_gateway: grpc.aio.Channel, *, clock: Clock) -> None:
        self._identity = IdentityServiceStub(to_gateway)
        self._clock = clock
        self._tokens: dict[tuple[TenantId, UUID], tuple[Principal, datetime]] = {}

    async def issue(self, caller: Caller, batch_id: str) -> str:
        """See `BatchTokens.issue`."""
        request = identity_service_pb2.IssueGrantRequest(run_id=batch_id)
        with remote_errors():
            answer = await self._identity.IssueGrant(
                request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
            )
        return answer.grant_id

    async def principal(self, job: BatchJob) -> Principal:
        """See `BatchTokens.principal`."""
        key = job.tenant, job.id
        kept = self._tokens.get(key)
        if kept is not None and kept[1] > self._clock.now():
            return kept[0]
        self._tokens.pop(key, None)
        request = identity_service_pb2.ExchangeGrantRequest(grant_id=job.grant_id, run_id=job.name)
        with remote_errors():
            answer = await self._identity.ExchangeGrant(request, timeout=_SECONDS)
        principal = Principal(
            tenant=job.tenant,
            subject=job.grant_id,
            roles=frozenset(),
            run_id=job.name,
            token=Secret(answer.access_token),
        )
        if len(self._tokens) >= _MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[key] = (principal, answer.expire_time.ToDatetime(tzinfo=UTC) - _MARGIN)
        return principal
