"""The launcher, with services that only say they are healthy."""

import sys
from pathlib import Path

from services.launcher.__main__ import main

_DUMMY = str(Path(__file__).with_name("dummy_service.py"))


def dummy_command(service: str) -> tuple[str, ...]:
    """Runs a dummy in place of a service."""
    return (sys.executable, _DUMMY, service)


if __name__ == "__main__":
    sys.exit(main(dummy_command))
