"""A user: a person who may sign in to a tenant, known by a verified mail address."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.gateway.domain.held_roles import check_held
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid

USER_PREFIX: Final = "user"
MAX_EMAIL: Final = 254
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: ASCII only: two addresses that look alike are then the same.
_EMAIL: Final = re.compile(rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One person in one tenant. Who was removed and is invited again becomes a new user."""

    id: UUID
    tenant: TenantId
    #: Lower case.
    email: str
    roles: frozenset[Role]
    #: Since when; of two changes, the later one has the later time, whatever the clocks say.
    roles_time: datetime
    create_time: datetime
    last_login_time: datetime | None = None
    remove_time: datetime | None = None

    @property
    def subject(self) -> str:
        """Who the person is within the tenant: `user_…`."""
        return from_uuid(USER_PREFIX, self.id)

    @property
    def works(self) -> bool:
        """True while the person may sign in."""
        return self.remove_time is None

    def removed(self, now: datetime) -> "User":
        """Ends the user. A removed one stays as it is."""
        return self if self.remove_time is not None else replace(self, remove_time=now)

    def given(self, roles: frozenset[Role], now: datetime) -> "User":
        """Replaces the roles. A user who has just these stays as it is."""
        if roles == self.roles:
            return self
        return replace(self, roles=roles, roles_time=max(now, self.roles_time + timedelta.resolution))

    def principal(self) -> Principal:
        """Gives the identity of the person."""
        return Principal(
            tenant=self.tenant,
            subject=self.subject,
            roles=self.roles,
            email=self.email,
            roles_time=self.roles_time.timestamp(),
        )


def to_email(text: str, *, field: str = "email") -> str:
    """Gives a mail address as it is stored and compared: lower case. Raises: Invalid."""
    email = text.lower()
    # Of the text itself: there are letters beyond ASCII whose lower case is within.
    if len(email) > MAX_EMAIL or not text.isascii() or _EMAIL.fullmatch(email) is None:
        raise Invalid(field, f"must be a mail address such as ann@example.com, ASCII, at most {MAX_EMAIL} characters")
    return email


def to_domain(text: str, *, field: str) -> str:
    """Gives a mail domain, lower case. Raises: Invalid."""
    domain = text.lower()
    if len(domain) > MAX_EMAIL - 2 or not text.isascii() or _DOMAIN.fullmatch(domain) is None:
        raise Invalid(field, "must be a mail domain such as example.com")
    return domain


def checked_roles(roles: Sequence[Role], *, by: Principal, field: str = "roles") -> frozenset[Role]:
    """Gives the roles if `by` may give them to a user.

    Raises: Invalid: none. RoleNotHeld.
    """
    if not roles:
        raise Invalid(field, "must name at least one role, such as ROLE_TENANT_USER")
    check_held(roles, by)
    return frozenset(roles)
