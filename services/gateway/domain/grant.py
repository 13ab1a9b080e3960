"""A grant: permission to go on working for a caller after its call has ended."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.errors import GrantInvalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid

GRANT_PREFIX: Final = "grant"
RUN_PREFIX: Final = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the caller of one run could do when it was started. It never grants more than that, or than its key does."""

    id: UUID
    tenant: TenantId
    run: UUID
    #: Key behind it; when that is revoked or expires, so does the grant.
    key: UUID
    roles: frozenset[Role]
    project: str | None
    scopes: frozenset[str] | None
    create_time: datetime
    revoke_time: datetime | None = None

    def principal(self, key: ApiKey, *, run: UUID, now: datetime) -> Principal:
        """Gives the identity in which the run may act now.

        Raises: GrantInvalid: revoked, for another run, or its key no longer works.
        """
        if self.revoke_time is not None or run != self.run or key.id != self.key or not key.works(now):
            raise GrantInvalid
        return Principal(
            tenant=self.tenant,
            subject=key.subject,
            roles=self.roles & key.roles,
            project=self.project,
            scopes=self.scopes,
            run_id=from_uuid(RUN_PREFIX, self.run),
        )
