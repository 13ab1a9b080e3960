"""Tells Envoy by which keys access tokens are verified, at its start and whenever the key set changes.

Envoy reads key sets once. What it does follow is the configuration of a filter in a file of its own, when that file is
replaced by a rename; so this copies the key set into one. Calls that run are not touched, and what Envoy cannot read
leaves the last good keys in use.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final, cast

from services.launcher.layout import write_private

_LOOK_SECONDS: Final = 1.0
_TYPES: Final = "type.googleapis.com/envoy"
_FILTER: Final = f"{_TYPES}.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


class TokenCheck:
    """The file that `filters.yaml.j2` names, kept equal to a key set.

    Args:
        jwks: public keys, as the services read them.
        file: what Envoy reads; its name ends in `.json`. The directory is watched, so little else should change in it.
    """

    def __init__(self, jwks: Path, file: Path) -> None:
        self._jwks = jwks
        self._file = file
        self._stamp: tuple[int, int, int] | None = None

    def write(self) -> None:
        """Copies the key set. Raises: OSError, ValueError: there is none."""
        stat = self._jwks.stat()
        keys = self._jwks.read_bytes()
        write_private(self._file, json.dumps(_check(keys)).encode(), durable=False)
        self._stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino

    async def follow(self) -> None:
        """Copies the key set again at each change, within a second; never returns."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                stat = self._jwks.stat()
                if (stat.st_mtime_ns, stat.st_size, stat.st_ino) != self._stamp:
                    self.write()
            except (OSError, ValueError):
                continue  # half-written or gone: the last good keys stay in use


def _check(keys: bytes) -> dict[str, Any]:
    """Gives the answer of a discovery service that holds the filter. Raises: ValueError: the keys are no key set."""
    found = json.loads(keys)
    if not isinstance(found, dict) or not isinstance(cast("dict[str, Any]", found).get("keys"), list):
        raise ValueError("no key set")
    provider = {
        "issuer": "comitia",
        "audiences": ["comitia"],
        "require_expiration": True,
        "clock_skew_seconds": 5,
        "local_jwks": {"inline_string": keys.decode()},
        # The services verify it again.
        "forward": True,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "payload_in_metadata": "token",
    }
    jwt_authn = {
        "@type": _FILTER,
        "providers": {"comitia": provider},
        "requirement_map": {"token": {"provider_name": "comitia"}},
    }
    named = {
        "@type": f"{_TYPES}.config.core.v3.TypedExtensionConfig",
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": jwt_authn,
    }
    return {"resources": [named]}
