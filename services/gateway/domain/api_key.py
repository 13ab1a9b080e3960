"""An API key: a name, roles, and how long it works."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from services.gateway.domain.held_roles import check_held
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX, SecretHash

MAX_NAME: Final = 100
MAX_PROJECT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key of one tenant. Its secret is not here; only `hash` is stored."""

    id: UUID
    tenant: TenantId
    display_name: str
    roles: frozenset[Role]
    #: None means any project.
    project: str | None = None
    hash: SecretHash
    create_time: datetime
    #: None means never.
    expire_time: datetime | None = None
    revoke_time: datetime | None = None

    @property
    def subject(self) -> str:
        """Who a holder of this key is within its tenant: `key_…`."""
        return from_uuid(KEY_PREFIX, self.id)

    def works(self, now: datetime) -> bool:
        """True while the key is neither expired nor revoked."""
        return self.revoke_time is None and (self.expire_time is None or now < self.expire_time)

    def revoked(self, now: datetime) -> "ApiKey":
        """Ends the key. A revoked key stays as it is."""
        return self if self.revoke_time is not None else replace(self, revoke_time=now)

    def principal(self) -> Principal:
        """Gives the identity of a holder."""
        return Principal(tenant=self.tenant, subject=self.subject, roles=self.roles, project=self.project)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """What somebody wants a new key to be."""

    display_name: str
    roles: tuple[Role, ...]
    project: str | None
    expire_time: datetime | None

    def checked(self, *, by: Principal, now: datetime) -> "KeyWish":
        """Returns the wish if `by` may have it.

        Raises: Invalid: a field is wrong. RoleNotHeld: nobody gives away what they do not hold.
        """
        if not 1 <= len(self.display_name) <= MAX_NAME or not self.display_name.isprintable():
            raise Invalid("display_name", f"must be 1 to {MAX_NAME} printable characters")
        if not self.roles:
            raise Invalid("roles", "must name at least one role, such as ROLE_TENANT_USER")
        if self.expire_time is not None and self.expire_time <= now:
            raise Invalid("expire_time", "must lie in the future; leave it out for a key that does not expire")
        check_held(self.roles, by)
        return replace(self, project=self._project_within(by))

    def _project_within(self, by: Principal) -> str | None:
        """A key made with a bound key is bound to the same project."""
        if self.project is not None and not (1 <= len(self.project) <= MAX_PROJECT and self.project.isprintable()):
            raise Invalid("project", f"must be 1 to {MAX_PROJECT} printable characters")
        if by.project is None or self.project == by.project:
            return self.project
        if self.project is None:
            return by.project
        raise Invalid("project", f"must be {by.project!r}, the project that your own identity is bound to")
