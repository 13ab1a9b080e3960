"""Which traces are recorded: decided once, where a trace begins, and carried on by the flag of its context."""

import re
from hashlib import blake2b, sha256
from random import Random
from typing import Final

#: Version 00 of the W3C trace context; other versions start alike. Ids of zeros are none.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_RECORDED: Final = "-01"
_NOT_RECORDED: Final = "-00"
_KEY_BYTES: Final = 16


def is_recorded(traceparent: str) -> bool:
    """Whether whoever began a trace decided that it is recorded; False outside a trace."""
    return traceparent.endswith(_RECORDED)


class Sampling:
    """Decides which of the traces that begin in this process are recorded.

    Callers from outside have no say in it, so they neither fill the queue of spans nor hide a call: dice are thrown for
    each call, whatever flag and ids it came with. Nobody can tell beforehand which names of turns are recorded, either,
    for a key that only this process knows decides.

    Args:
        ratio: part of all traces, 0 to 1.
        random: also gives ids, which leave the process: it may be found out from them.
        secret: gives the key.
    """

    def __init__(self, ratio: float, *, random: Random, secret: Random) -> None:
        self._ratio = ratio
        self._bound = round(ratio * 2**64)
        self._random = random
        self._key = secret.randbytes(_KEY_BYTES)

    def begun(self) -> str:
        """Gives the context of a new trace."""
        return f"00-{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}{self._thrown()}"

    def received(self, traceparent: str, *, neighbour: bool) -> str:
        """Gives the context under which a call goes on that came with `traceparent`; empty where that is none.

        Args:
            neighbour: a service of this mesh has proven that it calls. Only its flag counts.
        """
        if not _TRACEPARENT.fullmatch(traceparent):
            return ""
        return traceparent if neighbour else f"00{traceparent[2:52]}{self._thrown()}"

    def planned(self, *named: str) -> str:
        """Gives the context of a thing by its name: the same ids in all processes, the same flag in this one."""
        digest = sha256("\0".join(named).encode()).digest()
        ids = digest.hex()
        return f"00-{ids[:32]}-{ids[32:48]}{_RECORDED if self._takes(digest) else _NOT_RECORDED}"

    def below(self, parent: str) -> str:
        """Gives the context of a new span of a trace that is recorded."""
        return f"{parent[:36]}{self._random.getrandbits(64):016x}{_RECORDED}"

    def _thrown(self) -> str:
        return _RECORDED if self._random.random() < self._ratio else _NOT_RECORDED

    def _takes(self, digest: bytes) -> bool:
        if not 0 < self._bound < 2**64:
            return self._bound > 0
        return int.from_bytes(blake2b(digest, digest_size=8, key=self._key).digest(), "big") < self._bound
