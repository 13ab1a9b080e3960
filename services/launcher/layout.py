"""The data directory of a mesh: where each thing lies, who holds it, and what is remembered between starts.

state.json      ports and digests remembered          launcher.lock   held while a launcher lives
mesh.json       what runs now, for `status`           secrets.json    passwords and tokens
keys/           keys and certificates of all kinds    admin.key       the first administrator's API key
logs/           one file per child                    postgres/ nats/ envoy/ <service>/
audit/          signed heads, and the archive           guard/          what the gateway said last, by service
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.launcher.errors import LauncherError

_PRIVATE_DIR: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_LOCK_TRIES: Final = 4
_LOCK_PAUSE_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths below one data directory."""

    root: Path

    @property
    def state(self) -> Path:
        """Remembered between starts."""
        return self.root / "state.json"

    @property
    def mesh(self) -> Path:
        """What runs now."""
        return self.root / "mesh.json"

    @property
    def lock(self) -> Path:
        """Locked as long as a launcher lives; holds its pid."""
        return self.root / "launcher.lock"

    @property
    def secrets(self) -> Path:
        """Passwords and tokens by name."""
        return self.root / "secrets.json"

    @property
    def kek(self) -> Path:
        """Wraps the tenants' data keys; see `meshkit.crypto.kek_file`."""
        return self.root / "keys" / "kek"

    @property
    def signing_key(self) -> Path:
        """Private JWK with which the gateway signs access tokens."""
        return self.root / "keys" / "signing.jwk"

    @property
    def jwks(self) -> Path:
        """Key set that verifies access tokens."""
        return self.root / "keys" / "jwks.json"

    @property
    def token_check(self) -> Path:
        """How the edge verifies access tokens; made from the key set."""
        return self.root / "envoy" / "token_check" / "token_check.json"

    @property
    def audit_key(self) -> Path:
        """Private JWK with which the gateway signs heads of the audit trail."""
        return self.root / "keys" / "audit.jwk"

    @property
    def audit_jwks(self) -> Path:
        """Key set that verifies those heads: what `comitia audit verify --keys` asks for."""
        return self.root / "keys" / "audit_jwks.json"

    @property
    def audit(self) -> Path:
        """Signed heads and archived entries of the audit trail; nothing in it is ever changed."""
        return self.root / "audit"

    @property
    def workload_jwks(self) -> Path:
        """Key set that verifies the services' assertions."""
        return self.root / "keys" / "workload_jwks.json"

    @property
    def tls(self) -> Path:
        """Certificates between services, and the authority that signs them; see `certificates.py`."""
        return self.root / "keys" / "tls"

    @property
    def authority(self) -> Path:
        """Private key and certificate of the authority that signs."""
        return self.tls / "authority.pem"

    @property
    def next_authority(self) -> Path:
        """Those of the one that is to sign next, while authorities are exchanged."""
        return self.tls / "next_authority.pem"

    @property
    def authorities(self) -> Path:
        """Certificates of all authorities that are believed."""
        return self.tls / "authorities.pem"

    @property
    def bootstrap_key(self) -> Path:
        """The first administrator's API key, one line."""
        return self.root / "admin.key"

    @property
    def logs(self) -> Path:
        """One file per child."""
        return self.root / "logs"

    def workload_key(self, service: str) -> Path:
        """Private JWK of one service."""
        return self.root / "keys" / "workload" / f"{service}.jwk"

    def certificate(self, holder: str) -> Path:
        """Private key and certificate of a service, the edge or the launcher."""
        return self.tls / f"{holder}.pem"

    def guard(self, process: str) -> Path:
        """What the gateway told one process of a service of tenants and revocations."""
        return self.root / "guard" / process

    def registry(self, process: str) -> Path:
        """What one process of inference knew last of the models that tenants have registered, sealed."""
        return self.root / "inference" / process.replace("inference", "registry")

    def log(self, child: str) -> Path:
        """What one child printed."""
        return self.logs / f"{child}.log"

    def of(self, part: str) -> Path:
        """Directory of one service or server."""
        return self.root / part


def find_data_dir(asked: Path | None, environment: Mapping[str, str]) -> DataDir:
    """Finds the data directory: the one asked for, else `COMITIA_DATA_DIR`, else `~/.comitia`."""
    named = environment.get("COMITIA_DATA_DIR")
    root = asked or (Path(named) if named else Path.home() / ".comitia")
    return DataDir(root.expanduser().absolute())


def prepare(data: DataDir) -> None:
    """Makes the directories.

    Raises: LauncherError: the place cannot be written.
    """
    try:
        for path in (data.root, data.logs, data.kek.parent, data.workload_key("any").parent):
            path.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
    except OSError as cause:
        raise LauncherError(
            f"the data directory {data.root} cannot be made ({cause.strerror}); choose another with --data-dir"
        ) from cause


@contextmanager
def hold(data: DataDir) -> Iterator[None]:
    """Holds the data directory for this process. The kernel lets go of it however the process ends.

    Raises: LauncherError: a live launcher holds it.
    """
    descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        if not _locked(descriptor):
            raise LauncherError(
                f"a mesh already runs on {data.root} (launcher pid {os.pread(descriptor, 20, 0).decode().strip()}); "
                "see `comitia status`, or stop it with `comitia down`"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Tries a few times, because `holder` takes the lock for an instant when it asks."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def holder(data: DataDir) -> int | None:
    """Tells the pid of the launcher that holds the directory, or None."""
    try:
        descriptor = os.open(data.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 20, 0) or b"0") or None
    else:
        return None
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file that only its owner reads, all of it or nothing; `durable` survives a power cut."""
    path.parent.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)


def read_state(data: DataDir) -> dict[str, Any]:
    """Reads what the last start remembered; empty at the first.

    Raises: LauncherError: the file is no JSON object.
    """
    try:
        found = json.loads(data.state.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as cause:
        raise LauncherError(f"{data.state} is damaged; delete it, and new ports are chosen") from cause
    if not isinstance(found, dict):
        raise LauncherError(f"{data.state} is damaged; delete it, and new ports are chosen")
    return found  # pyright: ignore[reportUnknownVariableType]


def write_state(data: DataDir, state: Mapping[str, Any]) -> None:
    """Remembers for the next start."""
    write_private(data.state, json.dumps(state, indent=1, sort_keys=True).encode())
