"""Where the mesh is and who calls: arguments, then the environment, then the mesh that runs on this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from comitia_sdk.login.stored import Logins, find_config_dir, same_place

DEFAULT_URL = "http://127.0.0.1:7400"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An address and who calls: an API key, which is empty when none was found, or a person who signed in."""

    url: str
    api_key: str = field(repr=False)
    #: Where the person's sign-in is kept; None when a key is used.
    login: Logins | None = None


def find_context(
    *, url: str = "", api_key: str = "", data_dir: Path | None = None, environment: Mapping[str, str] | None = None
) -> Context:
    """Finds address and key.

    The address is `url`, else `COMITIA_URL`, else that of the mesh in the data directory, else `http://127.0.0.1:7400`.
    The key is `api_key`, else `COMITIA_API_KEY`. Without them, who signed in to that mesh with `comitia login` is the
    caller; and where nobody did, the admin key of the mesh in the data directory is used. That one is given to nobody
    else: with the address of another mesh no key is found.
    """
    variables = os.environ if environment is None else environment
    addresses = _running(find_data_dir(data_dir, variables))
    own_url = str(addresses.get("edge_url") or DEFAULT_URL)
    found_url = url or variables.get("COMITIA_URL", "") or own_url
    found_key = api_key or variables.get("COMITIA_API_KEY", "").strip()
    logins = Logins(find_config_dir(variables))
    if not found_key and logins.get(found_url) is not None:
        return Context(url=found_url, api_key="", login=logins)
    if not found_key and same_place(found_url) == same_place(own_url):
        found_key = _read(str(addresses.get("admin_key_path") or ""))
    return Context(url=found_url, api_key=found_key)


def find_data_dir(asked: Path | None, environment: Mapping[str, str]) -> Path:
    """Finds where a mesh on this machine keeps everything: as asked, else `COMITIA_DATA_DIR`, else `~/.comitia`."""
    return asked or Path(environment.get("COMITIA_DATA_DIR") or Path.home() / ".comitia").expanduser()


def _running(folder: Path) -> dict[str, Any]:
    """Reads the addresses of the mesh that the launcher noted in the data directory."""
    try:
        record: Any = json.loads((folder / "mesh.json").read_bytes())
    except (OSError, ValueError):
        return {}
    addresses: Any = cast(dict[str, Any], record).get("addresses") if isinstance(record, dict) else None
    return cast(dict[str, Any], addresses) if isinstance(addresses, dict) else {}


def _read(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
