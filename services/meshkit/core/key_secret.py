"""The secret text of an API key, `ck_<id>_<secret>`, and what is kept of it.

A secret is 256 random bits, so nobody finds it by trying, however fast the hash; a slow password hash would only cost
50 ms of every first request. Salt and HMAC-SHA-256 keep two stored hashes from being compared or looked up in a table.
"""

import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

from services.meshkit.core.errors import Invalid, Unauthenticated
from services.meshkit.core.ids import from_uuid, to_uuid

#: TypeID prefix of a key; its 26 characters without the prefix are the id inside the key's text.
KEY_PREFIX: Final = "key"
_TEXT: Final = re.compile(r"ck_([0-9a-z]{26})_([0-9A-Za-z\-]{40,128})", re.ASCII)


class ApiKeyInvalid(Unauthenticated):
    """The key is unknown, wrong, expired or revoked. The answer does not say which."""

    reason = "API_KEY_INVALID"

    def __init__(self) -> None:
        super().__init__("the API key is not valid; check it for typing errors, or ask an administrator for a new one")


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key's text as somebody sent it, split; says nothing about whether it is right."""

    id: UUID
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "PresentedKey":
        """Splits a text. Raises: ApiKeyInvalid: it is not of the form `ck_<id>_<secret>`."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ApiKeyInvalid
        try:
            return cls(to_uuid(f"{KEY_PREFIX}_{match[1]}", KEY_PREFIX), match[2])
        except Invalid as error:
            raise ApiKeyInvalid from error

    def __repr__(self) -> str:
        return f"PresentedKey(id={self.id}, secret=…)"

    @property
    def text(self) -> str:
        """The whole key, as it is sent."""
        return f"ck_{from_uuid(KEY_PREFIX, self.id).removeprefix(f'{KEY_PREFIX}_')}_{self.secret}"


@dataclass(frozen=True, slots=True)
class SecretHash:
    """What is stored of a secret."""

    #: 16 random bytes.
    salt: bytes
    #: HMAC-SHA-256 of the secret under the salt.
    digest: bytes

    @classmethod
    def of(cls, secret: str, *, salt: bytes) -> "SecretHash":
        """Hashes a secret."""
        return cls(salt, hmac.digest(salt, secret.encode(), sha256))

    def fits(self, secret: str) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(self.digest, hmac.digest(self.salt, secret.encode(), sha256))


@dataclass(frozen=True, slots=True)
class KeySecrets:
    """The secrets with which a key may be used: its own, and for a while after a rotation the one before."""

    current: SecretHash
    previous: SecretHash | None = None
    #: When the previous one stops working.
    previous_until: datetime | None = None

    def fit(self, secret: str, *, now: datetime) -> bool:
        """Compares with both in constant time."""
        fits = self.current.fits(secret)
        fits_previous = (self.previous or NO_SECRET).fits(secret)
        return fits or (fits_previous and self.previous_until is not None and now < self.previous_until)


#: Compared against when there is no such key, so that a wrong id takes as long as a wrong secret. No text hashes to it.
NO_SECRET: Final = SecretHash(bytes(16), bytes(32))
