"""A tenant: a customer whose data, money and rules stand apart from everyone else's."""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.tenant import Quotas, SecurityPolicy, TenantState

TENANT_PREFIX: Final = "tenant"
#: Tenant of a fresh installation.
LOCAL: Final = "local"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant of the installation."""

    id: TenantId
    #: Unique in the installation.
    name: str
    create_time: datetime
    #: Region its content must stay in; empty means no rule.
    residency_region: str = ""
    #: Only an active tenant may do anything.
    state: TenantState = TenantState.ACTIVE
    quotas: Quotas = field(default_factory=Quotas)
    security_policy: SecurityPolicy = field(default_factory=SecurityPolicy)
    #: Grows by one with each change; the basis of `etag`.
    revision: int = 1

    @property
    def subject(self) -> str:
        """Its id as callers write it: `tenant_…`."""
        return from_uuid(TENANT_PREFIX, self.id)

    @property
    def etag(self) -> str:
        """Names this version."""
        return f"{self.revision}-{self.id.hex[-8:]}"

    @property
    def ended(self) -> bool:
        """True once it is being erased: nothing of it changes any more."""
        return self.state in (TenantState.DELETING, TenantState.DELETED)

    def changed(
        self,
        *,
        state: TenantState | None = None,
        residency_region: str | None = None,
        quotas: Quotas | None = None,
        security_policy: SecurityPolicy | None = None,
    ) -> "Tenant":
        """Gives the tenant with new values, one revision later. Raises: Invalid."""
        return replace(
            self,
            state=self.state if state is None else state,
            residency_region=self.residency_region if residency_region is None else residency_region,
            quotas=self.quotas if quotas is None else quotas,
            security_policy=self.security_policy if security_policy is None else security_policy,
            revision=self.revision + 1,
        ).checked()

    def checked(self) -> "Tenant":
        """Returns the tenant. Raises: Invalid."""
        if _NAME.fullmatch(self.name) is None:
            raise Invalid("name", "must be 1 to 63 lower-case letters, digits and `-`, and not begin or end with `-`")
        if self.residency_region and _REGION.fullmatch(self.residency_region) is None:
            raise Invalid("residency_region", "must be a region such as `eu`: lower-case letters, digits and `-`")
        return self
