"""Where the mesh is and who calls: arguments, then the environment, then the mesh that runs on this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:7400"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An address and an API key; the key is empty when none was found."""

    url: str
    api_key: str = field(repr=False)


def find_context(
    *, url: str = "", api_key: str = "", data_dir: Path | None = None, environment: Mapping[str, str] | None = None
) -> Context:
    """Finds address and key.

    The address is `url`, else `COMITIA_URL`, else that of the mesh in the data directory, else `http://127.0.0.1:7400`.
    The key is `api_key`, else `COMITIA_API_KEY`, else the admin key of the mesh in the data directory.
    """
    variables = os.environ if environment is None else environment
    folder = data_dir or Path(variables.get("COMITIA_DATA_DIR") or Path.home() / ".comitia")
    addresses = _running(folder)
    found_url = url or variables.get("COMITIA_URL", "") or str(addresses.get("edge_url") or DEFAULT_URL)
    found_key = api_key or variables.get("COMITIA_API_KEY", "") or _read(str(addresses.get("admin_key_path") or ""))
    return Context(url=found_url, api_key=found_key)


def _running(folder: Path) -> dict[str, Any]:
    """Reads the addresses of the mesh that the launcher noted in the data directory."""
    try:
        record: dict[str, Any] = json.loads((folder / "mesh.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return record.get("addresses") or {}


def _read(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
