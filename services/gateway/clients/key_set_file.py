"""The key set file that verifiers on this machine read, and the edge follows."""

from collections.abc import Mapping
from pathlib import Path

from services.meshkit.grpc.signed_token import write_key_set
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class KeySetFileWriter:
    """Implements `usecases.identity_ports.KeySetPublisher`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, keys: Mapping[str, bytes]) -> None:
        """See `KeySetPublisher.publish`. Where the file may not be written, `GetKeySet` has the keys."""
        try:
            if write_key_set(self._path, keys):
                log.info("the key set of access tokens changed", keys=sorted(keys))
        except OSError as error:
            log.error("the key set file cannot be written; verifiers must read GetKeySet", error=repr(error))
