"""Keeps out of memory what libraries import only to offer more than we use: every service pays for it, seven times."""

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Generator[None]:
    """Lets an import inside the block find these optional modules missing, unless they are loaded already."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        # What the import system takes for "there is no such module".
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
