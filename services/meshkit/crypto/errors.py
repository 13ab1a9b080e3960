"""Why something cannot be sealed or opened."""

from uuid import UUID

from services.meshkit.core.errors import Internal, Precondition, Unavailable


class SealBroken(Internal):
    """The envelope is damaged, or was sealed for another tenant, key or place. Restore the row; it cannot be opened."""

    reason = "SEAL_BROKEN"


class KeyDestroyed(Precondition):
    """The key of this payload was destroyed on purpose, or never was the tenant's. The content is gone."""

    reason = "KEY_DESTROYED"

    def __init__(self, key_id: UUID) -> None:
        super().__init__("the key of this payload was destroyed; its content cannot be read again", key_id=key_id)


class KeyNotLoaded(Internal):
    """The synchronous way was taken before `await keyring.load(tenant)`. A bug of ours."""

    reason = "KEY_NOT_LOADED"


class KekFileUnsafe(Precondition):
    """The file of the key-encryption key is missing, readable by others, or no such file."""

    reason = "KEK_FILE_UNSAFE"


class KeyServiceAway(Unavailable):
    """The service that holds the key-encryption key does not answer, or refuses us. Nothing is lost; try again."""

    reason = "KEY_SERVICE_UNAVAILABLE"


class KeyServiceSettings(Precondition):
    """The settings of the key service do not say which one, or not enough to reach it."""

    reason = "KEY_SERVICE_SETTINGS"
