"""Nobody gives away what they do not hold."""

from collections.abc import Iterable

from services.gateway.domain.errors import RoleNotHeld
from services.meshkit.core.identity import Principal, Role
from services.meshkit.core.permissions import permissions_of


def check_held(asked: Iterable[Role], by: Principal) -> None:
    """Refuses roles that may do more than `by`.

    An administrator may do all that a tenant user or auditor may, so it holds those roles too.
    Raises: RoleNotHeld.
    """
    held = permissions_of(by.roles)
    if by.scopes is not None:
        held &= by.scopes
    for role in asked:
        if not permissions_of((role,)) <= held:
            raise RoleNotHeld(role)
