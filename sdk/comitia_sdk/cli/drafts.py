"""Files that commands write: there when all of them has come, and not before."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed


@contextmanager
def draft(file: Path) -> Iterator[tuple[BinaryIO, Callable[[str], None]]]:
    """Writes beside the file, and puts it there when all of it has come."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as opened, progress_line() as progress:
                yield opened, progress
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror or error}", code=EXIT_USAGE) from error


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Shows how far something is on one line of the terminal, and takes the line away again."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("0") as shown:
        yield lambda text: shown.update(text)
