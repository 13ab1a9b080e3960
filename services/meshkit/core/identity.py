"""Who is calling. Made from a verified token only, never from a field of a request."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType
from uuid import UUID

from services.meshkit.core.secret import NO_SECRET, Secret

TenantId = NewType("TenantId", UUID)


class Role(StrEnum):
    """What a caller is to its tenant."""

    #: May do everything within the tenant.
    ADMIN = "admin"
    #: Runs the installation: makes tenants, reads the state of the mesh.
    OPERATOR = "operator"
    #: Reads everything within the tenant and changes nothing.
    AUDITOR = "auditor"
    #: Works with agents and sessions of the tenant.
    TENANT_USER = "tenant_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified subject of one tenant."""

    tenant: TenantId
    #: Who it is within the tenant, such as `key_…`.
    subject: str
    roles: frozenset[Role]
    #: Project that the token is bound to; None means any.
    project: str | None = None
    #: Permissions that the token is narrowed to; None means all that the roles grant.
    scopes: frozenset[str] | None = None
    #: Run on whose behalf the token was exchanged; None for a live caller.
    run_id: str | None = None
    #: API key that the token was given for, `key_…`, where `subject` is not that key; None for people.
    api_key: str | None = None
    #: Since when the key that the token was given for has had its secret, Unix time, seconds; None for people.
    secret_time: float | None = None
    #: Verified mail address of a person; None for keys and service accounts.
    email: str | None = None
    #: Since when a person has had `roles`, Unix time, seconds; None for keys and service accounts, whose roles stay.
    roles_time: float | None = None
    #: The token itself, to be passed on when calling a neighbour for this principal.
    token: Secret = NO_SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal and, when a service calls on its behalf, that service."""

    principal: Principal
    #: Name of the calling service, proven by its workload assertion; None for an outside caller.
    peer: str | None = None

    @property
    def bound_to(self) -> str | None:
        """Project outside of which nothing is there for this caller; None: it is bound to none.

        A service that acts for a run does what the run needs, such as remembering; the run was let in.
        """
        return None if self.peer is not None and self.principal.run_id is not None else self.principal.project
