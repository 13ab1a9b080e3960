"""What the sign-in of people refuses."""

from services.meshkit.core.errors import Precondition, Unauthenticated, Unavailable


class LoginRefused(Unauthenticated):
    """The sign-in is refused. The answer never says which of its parts was wrong; the gateway's log does.

    Args:
        cause: a fixed phrase for the operator's log; it is not sent.
    """

    reason = "LOGIN_REFUSED"

    def __init__(self, cause: str) -> None:
        super().__init__(
            "the sign-in is refused; sign in again, and if that does not help, ask an administrator of the tenant "
            "whether you are invited with the mail address that your provider has verified"
        )
        self.cause = cause


class IssuerUnavailable(Unavailable):
    """The keys of the OpenID Connect issuer cannot be fetched right now, and none are known that are recent enough."""

    reason = "ISSUER_UNAVAILABLE"


class IssuerUnusable(Precondition):
    """The address is no OpenID Connect issuer that can be used: no discovery document, no keys, or out of reach."""

    reason = "ISSUER_UNUSABLE"

    def __init__(self, issuer: str, sentence: str) -> None:
        super().__init__(f"{issuer} cannot be used: {sentence}", issuer=issuer)
        self.sentence = sentence


class LastAdmin(Precondition):
    """Nobody would be left who can administer the tenant. Make another administrator first."""

    reason = "LAST_ADMIN"

    def __init__(self, email: str) -> None:
        super().__init__(
            f"{email} is the last who can administer this tenant; give the role admin to somebody else, or make an "
            "admin key, and try again",
            email=email,
        )
