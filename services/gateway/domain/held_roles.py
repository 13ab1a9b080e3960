"""Nobody gives away what they do not hold."""

from collections.abc import Iterable

from services.gateway.domain.errors import RoleNotHeld
from services.meshkit.core.identity import Principal, Role
from services.meshkit.core.permissions import permissions_of


def check_held(asked: Iterable[Role], by: Principal, *, scopes: frozenset[str] | None = None) -> None:
    """Refuses roles that may do more than `by`.

    An administrator may do all that a tenant user or auditor may, so it holds those roles too.

    Args:
        scopes: permissions that the asked identity is narrowed to; None for all that its roles grant. A narrowed `by`
            gives roles to no identity that is narrowed less.
    Raises: RoleNotHeld.
    """
    for role in asked:
        if not _holds(role, by, scopes):
            raise RoleNotHeld(role)


def held_roles(by: Principal) -> frozenset[Role]:
    """Gives the roles that `by` may give away, all that they grant."""
    return frozenset(role for role in Role if _holds(role, by, None))


def _holds(role: Role, by: Principal, scopes: frozenset[str] | None) -> bool:
    granted, may = permissions_of(by.roles), permissions_of((role,))
    held = granted if by.scopes is None else granted & by.scopes
    return may <= granted and (may if scopes is None else may & scopes) <= held
