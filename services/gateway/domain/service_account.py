"""A service account: a program that works for a tenant. Its keys come and go; its name and roles stay."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from services.gateway.domain.held_roles import check_held
from services.gateway.domain.names import check_within, checked_name, project_within
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid

SERVICE_ACCOUNT_PREFIX: Final = "svc"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """One program of one tenant."""

    id: UUID
    tenant: TenantId
    display_name: str
    roles: frozenset[Role]
    #: None means any project.
    project: str | None = None
    create_time: datetime
    #: Disabled for good, with all its keys.
    disable_time: datetime | None = None

    @property
    def subject(self) -> str:
        """Who a holder of one of its keys is within the tenant: `svc_…`."""
        return from_uuid(SERVICE_ACCOUNT_PREFIX, self.id)

    @property
    def works(self) -> bool:
        """True while it may have keys."""
        return self.disable_time is None

    def check_within(self, by: Principal) -> None:
        """Raises NotFound: `by` is bound to another project."""
        check_within(self.project, by, noun="service account", subject=self.subject)

    def disabled(self, now: datetime) -> "ServiceAccount":
        """Ends the account. A disabled one stays as it is."""
        return self if self.disable_time is not None else replace(self, disable_time=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWish:
    """What somebody wants a new service account to be."""

    display_name: str
    roles: tuple[Role, ...]
    project: str | None

    def checked(self, *, by: Principal) -> "AccountWish":
        """Returns the wish if `by` may have it. Raises: Invalid, RoleNotHeld."""
        checked_name(self.display_name)
        if not self.roles:
            raise Invalid("roles", "must name at least one role, such as ROLE_TENANT_USER")
        check_held(self.roles, by)
        return replace(self, project=project_within(self.project, by))
