"""Keys that sign access tokens, over time: published first, signing later, gone once their last token has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from services.gateway.domain.identity_errors import RotationInProgress
from services.meshkit.core.identity import TenantId

#: Whose keys they are, where a tenant has to be named.
INSTALLATION: Final = TenantId(UUID(int=0))
#: No access token lives longer.
LONGEST_TOKEN_LIFE: Final = timedelta(minutes=15)
#: Clocks of two machines differ by less.
_LEEWAY: Final = timedelta(minutes=1)
#: A retired key is remembered for as long as its rotation may be repeated.
_REMEMBER: Final = timedelta(hours=25)


def signing_key_id(kid: str) -> UUID:
    """Gives the number of a key where a text will not do."""
    return uuid5(INSTALLATION, kid)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyLife:
    """When one key is used. The private half is elsewhere."""

    kid: str
    #: When it begins to sign; it signs until the next one does.
    sign_time: datetime


@dataclass(frozen=True, slots=True)
class SigningKeyLine:
    """All keys of the installation, one after the other."""

    keys: tuple[SigningKeyLife, ...]

    @classmethod
    def of(cls, keys: Sequence[SigningKeyLife]) -> "SigningKeyLine":
        """Puts keys in order."""
        return cls(tuple(sorted(keys, key=lambda key: (key.sign_time, key.kid))))

    def signer(self, now: datetime) -> SigningKeyLife | None:
        """Gives the key that signs now: the last that has begun."""
        begun = [key for key in self.keys if key.sign_time <= now]
        return begun[-1] if begun else None

    def verifying(self, now: datetime) -> tuple[SigningKeyLife, ...]:
        """Gives the keys that verify now: the signing one, its successor, and those whose tokens still live."""
        return tuple(key for key in self.keys if not self._retired(key, now))

    def forgettable(self, now: datetime) -> tuple[SigningKeyLife, ...]:
        """Gives the keys of which nothing need be kept."""
        return tuple(key for key in self.keys if self._retired(key, now - _REMEMBER))

    def check_rotation(self, now: datetime) -> None:
        """Raises RotationInProgress when the newest key does not sign yet."""
        if self.keys and self.keys[-1].sign_time > now:
            raise RotationInProgress(sign_time=self.keys[-1].sign_time, now=now)

    def _retired(self, key: SigningKeyLife, at: datetime) -> bool:
        """True when the last token of a key has ended by then. The newest key never retires."""
        later = self.keys[self.keys.index(key) + 1 :]
        return bool(later) and later[0].sign_time + LONGEST_TOKEN_LIFE + _LEEWAY <= at
