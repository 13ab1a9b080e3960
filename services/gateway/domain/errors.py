"""The gateway's own refusals."""

from services.meshkit.core.errors import Internal, PermissionDenied, Unauthenticated
from services.meshkit.core.identity import Role


class GrantInvalid(Unauthenticated):
    """The grant is unknown, revoked or for another run, or whoever stands behind it no longer works."""

    reason = "GRANT_INVALID"

    def __init__(self) -> None:
        super().__init__("the grant is not valid; the run needs a new one from a caller who may start it")


class RoleNotHeld(PermissionDenied):
    """The caller asked for a role that may do more than the caller itself. Ask someone who holds it."""

    reason = "ROLE_NOT_HELD"

    def __init__(self, role: Role) -> None:
        super().__init__(
            f"you do not hold the role {role.value!r}, so you cannot give it away; ask someone who does",
            role=role.value,
        )


class GrantNeedsKey(PermissionDenied):
    """Work that outlives its caller stands on an API key, a service account or a user, and the caller is none."""

    reason = "GRANT_NEEDS_KEY"

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"{subject!r} is no API key, service account or user, and only their work may outlive its caller",
            subject=subject,
        )


class BootstrapKeyDiffers(Internal):
    """The key file holds another secret than the key of this id that the database knows. Restore one of the two."""

    reason = "BOOTSTRAP_KEY_DIFFERS"
