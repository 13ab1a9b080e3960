"""Keeps imports cheap: every service pays for them, seven times, and again whenever it is restarted.

Libraries import much only to offer more than we use; that is kept out of memory.
"""

import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType


@contextmanager
def without(*names: str) -> Generator[None]:
    """Lets an import inside the block find these optional modules missing, unless they are loaded already."""
    # Not by `None` in `sys.modules`: compiled modules take that for the module.
    finder = _Missing(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


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


@contextmanager
def for_good() -> Generator[None]:
    """Takes it that what is imported inside the block stays: nobody looks through it for rings of dead objects, ever.

    Else the interpreter looks three hundred times while a service is imported, and finds next to nothing.
    """
    watched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if watched:
            gc.enable()


class _Missing(MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is left out", name=fullname)


class _Hollow(ModuleType):
    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
