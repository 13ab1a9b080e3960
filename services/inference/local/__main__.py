"""Runs the local model: `python -m services.inference.local`."""

import sys

import uvloop
from pydantic import ValidationError

from services.inference.local.process import run
from services.inference.local.settings import LocalModelSettings
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import setup_logs


def main() -> int:
    """Runs until told to stop. Exits with 2 when the settings are wrong, 3 when it could not start."""
    try:
        settings = LocalModelSettings()
    except ValidationError as error:
        wrong = "; ".join(f"{_variable(item['loc'])}: {item['msg']}" for item in error.errors())
        sys.stderr.write(f"the settings of the local model are wrong: {wrong}\n")
        return 2
    setup_logs(settings.log_level)
    try:
        uvloop.run(run(settings))
    except MeshError as error:
        sys.stderr.write(f"the local model cannot start: {error.message}\n")
        return 3
    except OSError as error:
        sys.stderr.write(f"the local model cannot listen on {settings.listen}: {error.strerror}\n")
        return 3
    return 0


def _variable(place: tuple[int | str, ...]) -> str:
    return f"COMITIA_LOCAL_MODEL_{'_'.join(str(step) for step in place)}".upper()


if __name__ == "__main__":
    sys.exit(main())
