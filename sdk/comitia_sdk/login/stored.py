"""Sign-ins that are kept between commands: one file that only this user may read."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

_FILE: Final = "logins.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLogin:
    """A person who signed in to a tenant of one mesh."""

    tenant: str
    issuer: str
    client_id: str
    token_endpoint: str
    id_token: str = field(repr=False)
    #: Empty when the provider gave none.
    refresh_token: str = field(default="", repr=False)
    #: The mesh's own token, so that not every command needs a new one.
    access_token: str = field(default="", repr=False)
    #: When that one ends, Unix seconds.
    expires: float = 0.0


def find_config_dir(environment: Mapping[str, str]) -> Path:
    """Finds where sign-ins are kept: `COMITIA_CONFIG_DIR`, else `comitia` in the user's folder of settings."""
    own = environment.get("COMITIA_CONFIG_DIR")
    if own:
        return Path(own).expanduser()
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config").expanduser() / "comitia"


class Logins:
    """The sign-ins of this user, by mesh."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _FILE

    def get(self, url: str) -> StoredLogin | None:
        """Gives the sign-in to a mesh."""
        return _read(self._all().get(same_place(url)))

    def put(self, url: str, login: StoredLogin) -> None:
        """Keeps a sign-in to a mesh."""
        with self.locked():
            self.replace(url, login)

    def remove(self, url: str) -> bool:
        """Forgets the sign-in to a mesh; tells whether there was one."""
        with self.locked():
            known = self._all()
            found = known.pop(same_place(url), None)
            if found is not None:
                self._write(known)
        return found is not None

    def replace(self, url: str, login: StoredLogin) -> None:
        """As `put`, for who holds the lock."""
        self._write({**self._all(), same_place(url): asdict(login)})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from using up the same refresh token meanwhile. Blocks."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / f".{_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _all(self) -> dict[str, Any]:
        try:
            value: object = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return cast(dict[str, Any], value) if isinstance(value, dict) else {}

    def _write(self, known: Mapping[str, Any]) -> None:
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=self._folder)  # readable by this user only
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(known, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


def same_place(url: str) -> str:
    """Gives an address in one spelling."""
    whole = url if "//" in url else f"http://{url}"
    return whole.rstrip("/").lower().replace("//localhost", "//127.0.0.1")


def _read(value: object) -> StoredLogin | None:
    if not isinstance(value, dict):
        return None
    names = {one.name for one in fields(StoredLogin)}
    try:
        return StoredLogin(**{name: kept for name, kept in cast(dict[str, Any], value).items() if name in names})
    except TypeError:
        return None
