"""Answers that were given before, kept in memory for equal calls, within a bound of bytes."""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, NewType

from services.inference.domain.answer import Answer, StopReason
from services.inference.domain.tenant_shares import TenantShares
from services.meshkit.content import TextPart, text_of
from services.meshkit.core.identity import TenantId

#: HMAC of all that makes an answer what it is, under a key of its tenant.
CacheKey = NewType("CacheKey", bytes)

#: What an answer takes beside its text, about.
_ENTRY_BYTES: Final = 2_048
#: Longest text that is kept, bytes.
_MOST_TEXT: Final = 256 * 1024


def cache_key(secret: bytes, tenant: str, parts: Iterable[bytes]) -> CacheKey:
    """Gives the key of a call. Parts are written with their lengths, so that no two lists of them are one text."""
    of_tenant = hmac.digest(secret, tenant.encode(), hashlib.sha256)
    told = b"".join(len(part).to_bytes(4) + part for part in parts)
    return CacheKey(hmac.digest(of_tenant, told, hashlib.sha256))


def may_be_kept(answer: Answer) -> bool:
    """Says whether an answer is whole and would do for an equal call: tools are to be chosen anew."""
    return (
        answer.stop_reason is StopReason.STOP
        and not answer.stub
        and not answer.continued_by
        and all(isinstance(part.content, TextPart) for part in answer.parts)
    )


class KeptAnswers:
    """Keeps answers until their time is over, or one of whoever has most of them has to go."""

    def __init__(self, *, most_bytes: int) -> None:
        self._kept: dict[CacheKey, tuple[TenantId, Answer, float]] = {}
        self._shares = TenantShares[CacheKey](most_bytes=most_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return self._shares.bytes

    def look(self, key: CacheKey, *, now: float) -> Answer | None:
        """Gives a kept answer that is not too old."""
        found = self._kept.get(key)
        if found is None:
            return None
        tenant, answer, until = found
        if until <= now:
            self._drop(key)
            return None
        self._shares.used(tenant, key)
        return answer

    def keep(self, tenant: TenantId, key: CacheKey, answer: Answer, *, until: float) -> None:
        """Keeps an answer of a tenant, if it is not too long."""
        if key in self._kept:
            self._drop(key)
        text = len(text_of(answer.parts).encode("utf-8", "surrogatepass"))
        if text > _MOST_TEXT:
            return
        self._kept[key] = tenant, answer, until
        self._shares.add(tenant, key, text + _ENTRY_BYTES)
        while (found := self._shares.too_much(tenant)) is not None:
            self._drop(found[1])

    def _drop(self, key: CacheKey) -> None:
        tenant, _, _ = self._kept.pop(key)
        self._shares.remove(tenant, key)
