"""Files that people write: YAML or JSON, bounded and safe."""

import json
from pathlib import Path
from typing import Any, Final, cast

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed

_MAX_BYTES: Final = 1024 * 1024


def read_text(path: Path) -> str:
    """Reads a text file, `-` for standard input. Raises: CommandFailed."""
    try:
        if str(path) == "-":
            import sys

            return sys.stdin.read(_MAX_BYTES)
        if path.stat().st_size > _MAX_BYTES:
            raise CommandFailed(f"{path} is larger than 1 MB; nothing was sent", code=EXIT_USAGE)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{path} is no UTF-8 text (byte {error.start})", code=EXIT_USAGE) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file that holds a mapping. Raises: CommandFailed, with line and column."""
    import yaml

    text = read_text(path)
    try:
        value: object = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise CommandFailed(f"{path}:{error.lineno}:{error.colno}: {error.msg}", code=EXIT_USAGE) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise CommandFailed(f"{place}: {getattr(error, 'problem', None) or error}", code=EXIT_USAGE) from error
    if not isinstance(value, dict):
        raise CommandFailed(f"{path} must hold a mapping of names to values", code=EXIT_USAGE)
    return cast(dict[str, Any], value)
