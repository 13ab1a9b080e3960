"""Who is calling."""

from dataclasses import dataclass
from typing import Final

from comitia_sdk.asgi.interface import Scope
from comitia_sdk.errors import PermissionDenied, Unauthenticated
from comitia_sdk.secret import Secret

#: Where the principal stands in a scope.
KEY: Final = "comitia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller whom the mesh knows. Made of a verified token, never of anything else in a request."""

    #: `tenant_…`.
    tenant: str
    #: Who it is within the tenant, such as `key_…`.
    subject: str
    roles: frozenset[str]
    #: Project that the token is bound to; None means any.
    project: str | None
    #: Permissions that the token is narrowed to; None means all that the roles grant.
    scopes: frozenset[str] | None
    #: Run on whose behalf the caller works; None for all others.
    run_id: str | None
    #: Verified mail address of a person; None for keys and service accounts.
    email: str | None
    #: When the token ends, Unix time, seconds.
    expires: float
    #: Calls the mesh for this caller: `AsyncClient(access_token=principal.token.reveal())`.
    token: Secret


class CallerUnknown(Unauthenticated):
    """Nobody proved who they are: the path is exempt, or `ComitiaAuth` does not stand before the application."""


class RoleMissing(PermissionDenied):
    """The caller is known and may not do that."""


def require(scope: Scope, *, role: str = "", permission: str = "") -> Principal:
    """Gives the caller of a request, who has to have a role.

    What it raises `ComitiaAuth` answers with 401 or 403, so that routes need not catch it. A token that is narrowed
    to some permissions has its roles for these only.

    Args:
        scope: of the request: `request.scope` in FastAPI and Starlette.
        role: such as `admin`; empty for none in particular.
        permission: what a narrowed token has to hold, such as `sessions.read`; without it, none will do for a role.
    Raises: CallerUnknown, RoleMissing.
    """
    principal = scope.get(KEY)
    if not isinstance(principal, Principal):
        raise CallerUnknown("this needs an identity, and the application asked for none", reason="TOKEN_MISSING")
    if role and role not in principal.roles:
        raise RoleMissing(
            f"this needs the role {role!r}; ask an administrator of your tenant for it",
            reason="ROLE_MISSING",
            metadata={"role": role},
        )
    if principal.scopes is not None and (role or permission) and permission not in principal.scopes:
        raise RoleMissing(
            f"your key is narrowed to less than this needs ({permission or 'all of its role'}); use another key",
            reason="PERMISSION_MISSING",
            metadata={"permission": permission},
        )
    return principal
