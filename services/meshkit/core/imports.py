"""Keeps out of memory what libraries import only to offer more than we use: every service pays for it, seven times."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType


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


@contextmanager
def hollow(*names: str) -> Generator[None]:
    """Lets an import inside the block find these modules with nothing in them, unless they are loaded already.

    For what a package imports without a way round, to offer it to others. Its names are there, and are None.
    """
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = _Hollow(name)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


class _Hollow(ModuleType):
    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
