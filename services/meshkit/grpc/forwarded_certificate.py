"""What the east-west listener says of the certificate that its own caller showed.

Envoy writes `x-forwarded-client-cert` itself and takes away what a caller wrote. Whoever reads it has to know by the
handshake that it was this listener who sent it: `tls.certified_names` does.
"""

import re
from collections.abc import Iterable
from typing import Final

FORWARDED_CERTIFICATE: Final = "x-forwarded-client-cert"
#: The certificate of one hop, with one name. Envoy escapes nothing, so a name that holds a separator would read as
#: several names, or as several hops: neither is one.
_ONE_NAME: Final = re.compile(r"Hash=[0-9a-f]{64};DNS=([a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,8})")


def forwarded_names(metadata: Iterable[tuple[str, str | bytes]]) -> frozenset[str]:
    """Gives the DNS name that the caller of the listener showed; nothing where that is not told once and plainly."""
    lines = [value for key, value in metadata if key == FORWARDED_CERTIFICATE]
    told = _ONE_NAME.fullmatch(lines[0]) if len(lines) == 1 and isinstance(lines[0], str) else None
    return frozenset() if told is None else frozenset({told[1]})
