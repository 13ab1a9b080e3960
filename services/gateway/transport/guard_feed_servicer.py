"""gRPC face of what other services have to know."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.transport import convert, tenant_convert
from services.gateway.transport.rate_leases import RateLeases
from services.gateway.usecases.guard_news import GuardNews, GuardNote
from services.gateway.usecases.identity_ports import RevokedSubject
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.core.rate import LeaseSlices
from services.meshkit.grpc.until_drain import until_drain


class GuardFeedServicer(RateLeases):
    """Pushes revocations, tenants and keys, and leases rates."""

    def __init__(self, news: GuardNews, *, lease: LeaseSlices) -> None:
        super().__init__(lease)
        self._news = news

    async def WatchGuard(self, request: pb.WatchGuardRequest, context: Any) -> AsyncGenerator[pb.WatchGuardResponse]:
        """See `guard_feed_service.proto`."""
        async with aclosing(until_drain(self.messages(request.after_version))) as messages:
            async for message in messages:
                yield message

    async def messages(self, after_version: int) -> AsyncGenerator[pb.WatchGuardResponse]:
        """Gives the messages of a stream; the gateway follows itself by these."""
        async with aclosing(self._news.watch(after_version)) as notes:
            async for note in notes:
                yield _note_to_proto(note)


def _note_to_proto(note: GuardNote) -> pb.WatchGuardResponse:
    return pb.WatchGuardResponse(
        version=note.version,
        reset=note.reset,
        complete=note.complete,
        keys=[_key_to_proto(key) for key in note.keys],
        ended_keys=[
            pb.EndedKey(api_key_id=from_uuid(KEY_PREFIX, key.id), tenant_id=from_uuid(TENANT_PREFIX, key.tenant))
            for key in note.ended_keys
        ],
        revoked=[_revoked_to_proto(revoked) for revoked in note.revoked],
        tenants=[_tenant_to_proto(tenant) for tenant in note.tenants],
    )


def _key_to_proto(key: ApiKey) -> pb.GuardedKey:
    secrets, account = key.secrets, key.service_account
    return pb.GuardedKey(
        api_key_id=key.subject,
        tenant_id=from_uuid(TENANT_PREFIX, key.tenant),
        salt=secrets.current.salt,
        digest=secrets.current.digest,
        roles=convert.roles_to_proto(key.roles),
        project=key.project or "",
        scopes=sorted(key.scopes or ()),
        expire_time=convert.optional_timestamp(key.expire_time),
        service_account_id="" if account is None else from_uuid(SERVICE_ACCOUNT_PREFIX, account),
        previous_salt=b"" if secrets.previous is None else secrets.previous.salt,
        previous_digest=b"" if secrets.previous is None else secrets.previous.digest,
        previous_expire_time=convert.optional_timestamp(secrets.previous_until),
    )


def _revoked_to_proto(revoked: RevokedSubject) -> pb.RevokedSubject:
    return pb.RevokedSubject(
        tenant_id=from_uuid(TENANT_PREFIX, revoked.tenant),
        subject=revoked.subject,
        revoke_time=convert.timestamp(revoked.revoke_time),
    )


def _tenant_to_proto(tenant: Tenant) -> pb.GuardedTenant:
    return pb.GuardedTenant(
        tenant_id=from_uuid(TENANT_PREFIX, tenant.id),
        state=tenant_convert.state_to_proto(tenant.state),
        quotas=tenant_convert.quotas_to_proto(tenant.quotas),
        security_policy=tenant_convert.policy_to_proto(tenant.security_policy),
        residency_region=tenant.residency_region,
    )
