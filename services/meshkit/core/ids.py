"""TypeIDs: a prefix that names the noun and 26 characters of base32 UUIDv7, such as `run_01jx…`.

Source: the TypeID specification, version 0.3. Ids sort by creation time; databases store the UUID.
"""

from typing import Final, Protocol
from uuid import UUID

import uuid_utils

from services.meshkit.core.errors import Invalid

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_SUFFIX_LENGTH: Final = 26


class IdSource(Protocol):
    """Makes ids that nobody else makes."""

    def new(self, prefix: str) -> str:
        """Makes a TypeID with this prefix (lower-case letters and `_`)."""
        ...

    def uuid(self) -> UUID:
        """Makes a UUIDv7."""
        ...


class SystemIds:
    """Ids from the machine's clock and randomness."""

    def new(self, prefix: str) -> str:
        """See `IdSource.new`."""
        return from_uuid(prefix, self.uuid())

    def uuid(self) -> UUID:
        """See `IdSource.uuid`."""
        return UUID(int=uuid_utils.uuid7().int)


def from_uuid(prefix: str, value: UUID) -> str:
    """Writes a UUID as the TypeID with this prefix."""
    number = value.int
    digits = [""] * _SUFFIX_LENGTH
    for position in range(_SUFFIX_LENGTH - 1, -1, -1):
        digits[position] = _ALPHABET[number & 31]
        number >>= 5
    return f"{prefix}_{''.join(digits)}"


def to_uuid(type_id: str, prefix: str, *, field: str = "id") -> UUID:
    """Reads the UUID out of a TypeID.

    Raises: Invalid (naming `field`): the prefix differs, or the rest is not 26 characters of base32 within 128 bits.
    """
    head, _, suffix = type_id.rpartition("_")
    if head != prefix or len(suffix) != _SUFFIX_LENGTH or suffix[0] not in _ALPHABET[:8]:
        raise Invalid(
            field,
            f"is no id of the form {prefix}_…; copy it from the answer that made it",
        )
    number = 0
    for character in suffix:
        value = _VALUES.get(character)
        if value is None:
            raise Invalid(
                field,
                f"is no id of the form {prefix}_…; copy it from the answer that made it",
            )
        number = (number << 5) | value
    return UUID(int=number)
