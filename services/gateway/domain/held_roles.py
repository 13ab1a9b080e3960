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
    granted = permissions_of(by.roles)
    held = granted if by.scopes is None else granted & by.scopes
    for role in asked:
        may = permissions_of((role,))
        if not may <= granted or not (may if scopes is None else may & scopes) <= held:
            raise RoleNotHeld(role)
