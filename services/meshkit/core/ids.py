"""TypeIDs: a prefix that names the noun and 26 characters of base32 UUIDv7, such as `run_01jx…`.

Source: the TypeID specification, version 0.3. Ids sort by creation time; databases store the UUID.
"""

import re
from typing import Final, Protocol
from uuid import UUID

import uuid_utils

from services.meshkit.core.errors import Invalid

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
#: 26 characters of it, within 128 bits.
_SUFFIX: Final = re.compile(f"[0-7][{_ALPHABET}]{{25}}")
#: The digits that `int` knows for the same values.
_DIGITS: Final = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")
#: Two characters for every ten bits, and where those begin.
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS: Final = range(120, -1, -10)


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
    suffix = "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
    return f"{prefix}_{suffix}"


def to_uuid(type_id: str, prefix: str, *, field: str = "id") -> UUID:
    """Reads the UUID out of a TypeID.

    Raises: Invalid (naming `field`): the prefix differs, or the rest is not 26 characters of base32 within 128 bits.
    """
    head, _, suffix = type_id.rpartition("_")
    if head != prefix or _SUFFIX.fullmatch(suffix) is None:
        raise Invalid(field, f"is no id of the form {prefix}_…; copy it from the answer that made it")
    return UUID(int=int(suffix.translate(_DIGITS), 32))
