"""What a door refuses although the token is good."""

from services.meshkit.core.errors import PermissionDenied, Unauthenticated


class TokenRevoked(Unauthenticated):
    """The key, user or service account behind the token ended or changed after the token was issued. Get a new token."""

    reason = "TOKEN_REVOKED"

    def __init__(self) -> None:
        super().__init__(
            "the identity behind this token was revoked or changed; get a new token, and if that is refused, ask an "
            "administrator of your tenant for another identity"
        )


class TenantSuspended(PermissionDenied):
    """The tenant is suspended or being deleted, so that nothing may be done for it. An operator can resume it."""

    reason = "TENANT_SUSPENDED"

    def __init__(self) -> None:
        super().__init__("your tenant is suspended; nothing is lost, ask the operator of the installation to resume it")
