"""What a door refuses although the token is good."""

from datetime import timedelta

from services.meshkit.core.errors import ErrorKind, MeshError, PermissionDenied, Unauthenticated


class TokenRevoked(Unauthenticated):
    """The key, user or service account behind the token ended or changed after it was issued. Get a new token."""

    reason = "TOKEN_REVOKED"

    def __init__(self) -> None:
        super().__init__(
            "the identity behind this token was revoked or changed; get a new token, and if that is refused, ask an "
            "administrator of your tenant for another identity"
        )


class GuardUnknown(MeshError):
    """The service started while the gateway was away, and knows of nobody what they may do. Try again in a moment."""

    kind = ErrorKind.UNAVAILABLE
    reason = "GUARD_UNKNOWN"

    def __init__(self) -> None:
        super().__init__(
            "this service has just started and the gateway has not told it yet who was revoked and what tenants allow; "
            "nothing was done, try again in a moment",
            retry_after=timedelta(seconds=1),
        )


class TenantSuspended(PermissionDenied):
    """The tenant is suspended or being deleted, so that nothing may be done for it. An operator can resume it."""

    reason = "TENANT_SUSPENDED"

    def __init__(self) -> None:
        super().__init__("your tenant is suspended; nothing is lost, ask the operator of the installation to resume it")
