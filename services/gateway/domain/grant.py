"""A grant: permission to go on working for a caller after its call has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.gateway.domain.errors import GrantInvalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid

GRANT_PREFIX: Final = "grant"
RUN_PREFIX: Final = "run"
#: What a grant may be for, by the service that asks: the orchestrator works on runs, inference on providers' batches.
PREFIX_OF_PEER: Final[Mapping[str | None, str]] = {"orchestrator": RUN_PREFIX, "inference": "batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whoever stands behind a grant, as they are now: an API key, a service account or a user."""

    subject: str
    roles: frozenset[Role]
    #: Revoked, disabled or removed.
    ended: bool
    #: Of the key; None means never.
    expire_time: datetime | None = None
    #: Of the key: since when it has had its secret.
    secret_time: datetime | None = None
    #: Of a user.
    email: str | None = None
    #: Of a user: since when they have had `roles`.
    roles_time: datetime | None = None

    def works(self, now: datetime) -> bool:
        """True while they may work themselves."""
        return not self.ended and (self.expire_time is None or now < self.expire_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the caller of one run could do when it was started; never more, and never more than the caller may now."""

    id: UUID
    tenant: TenantId
    #: The run, or the batch of a provider: ids of both are never the same.
    run: UUID
    #: Who stands behind it, `key_…`, `svc_…` or `user_…`; when they end, so does the grant.
    subject: str
    #: Key that the caller held, where `subject` is a service account; when that key ends, so does the grant. None for
    #: grants of accounts from before it was kept.
    api_key: str | None = None
    roles: frozenset[Role]
    project: str | None
    scopes: frozenset[str] | None
    create_time: datetime
    revoke_time: datetime | None = None

    def principal(self, standing: Standing, *, run: UUID, now: datetime, prefix: str = RUN_PREFIX) -> Principal:
        """Gives the identity in which the run may act now.

        Args:
            prefix: of the id that the token names, that of a run or of a batch.
        Raises: GrantInvalid: revoked, for another run, or whoever stands behind it no longer works.
        """
        revoked = self.revoke_time is not None or run != self.run
        if revoked or standing.subject != self.subject or not standing.works(now):
            raise GrantInvalid
        return Principal(
            tenant=self.tenant,
            subject=self.subject,
            roles=self.roles & standing.roles,
            project=self.project,
            scopes=self.scopes,
            run_id=from_uuid(prefix, self.run),
            api_key=self.api_key,
            email=standing.email,
            roles_time=None if standing.roles_time is None else standing.roles_time.timestamp(),
            secret_time=None if standing.secret_time is None else standing.secret_time.timestamp(),
        )
