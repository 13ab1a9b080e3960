"""Keeps the key set file of a machine that shares no files with the gateway."""

import base64
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio

from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unavailable
from services.meshkit.grpc.signed_token import write_key_set
from services.meshkit.telemetry.logs import logger

_EVERY_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 0.5
#: How long a service that has no key set at all waits for the gateway before it gives up.
_FIRST_SECONDS: Final = 60.0
_TIMEOUT_SECONDS: Final = 5.0

log = logger(__name__)


class KeySetMirror:
    """Background work: asks the gateway for its public keys, and writes them to the file that all here verify by.

    A service that starts while the gateway is away verifies by the file that an earlier process wrote.
    """

    def __init__(self, channel: grpc.aio.Channel, path: Path, *, clock: Clock) -> None:
        # The package of the stubs types them as those of a blocking channel.
        self._stub = cast(Any, IdentityServiceStub(channel))
        self._path = path
        self._clock = clock

    async def first(self) -> None:
        """Sees to it that there is a file. Raises: Unavailable: the gateway gave none within a minute."""
        started = self._clock.monotonic()
        while not self._path.exists():
            if await self._mirrored():
                return
            if self._clock.monotonic() - started >= _FIRST_SECONDS:
                raise Unavailable("gateway")
            await self._clock.sleep(_AGAIN_SECONDS)

    async def __call__(self) -> None:
        """Mirrors until cancelled."""
        while True:
            await self._mirrored()
            await self._clock.sleep(_EVERY_SECONDS)

    async def _mirrored(self) -> bool:
        try:
            answer: pb.GetKeySetResponse = await self._stub.GetKeySet(pb.GetKeySetRequest(), timeout=_TIMEOUT_SECONDS)
            keys = {key.kid: _raw(key.x) for key in answer.keys if key.kty == "OKP" and key.crv == "Ed25519"}
            if not keys:
                return False
            if write_key_set(self._path, keys):
                log.info("the key set of access tokens changed", keys=sorted(keys))
        except (grpc.aio.AioRpcError, OSError, ValueError) as error:
            log.warning("the gateway's key set cannot be mirrored; the last one stays in use", error=repr(error))
            return False
        return True


def _raw(written: str) -> bytes:
    return base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))
