"""What keys, service accounts and signing keys refuse."""

from datetime import datetime

from services.meshkit.core.errors import Conflict, Precondition


class ApiKeyEnded(Precondition):
    """The key is revoked or expired, so it gets no new secret. Make another."""

    reason = "API_KEY_ENDED"

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r} is revoked or has expired; make a new key", api_key_id=key)


class ServiceAccountDisabled(Precondition):
    """The service account is disabled for good, so it gets no key. Make another account."""

    reason = "SERVICE_ACCOUNT_DISABLED"

    def __init__(self, account: str) -> None:
        super().__init__(f"{account!r} is disabled; make a new service account", service_account_id=account)


class RotationInProgress(Conflict):
    """The signing key made last does not sign yet. Wait until it does."""

    reason = "ROTATION_IN_PROGRESS"

    def __init__(self, *, sign_time: datetime, now: datetime) -> None:
        super().__init__(
            f"a new signing key is on its way to all who verify tokens and signs from {sign_time:%H:%M:%S} UTC; "
            "rotate again after that",
            retry_after=sign_time - now,
            sign_time=sign_time.isoformat(),
        )
