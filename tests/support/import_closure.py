"""What a program imports, read from its source: also what it imports late, in functions, and would miss in the middle
of the night. Left out is what only type checkers see, and what may be missing (`except ImportError`).
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

#: Where each of our packages lies in an image.
PLACES = {"services": "app", "comitia_sdk": "app/packages", "comitia": "app/packages"}


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    return tuple(_imports(ast.parse(file.read_text()).body))


def _imports(body: Iterable[ast.AST]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _imports(node.orelse)
        elif isinstance(node, ast.Try) and any("Import" in ast.unparse(h.type) for h in node.handlers if h.type):
            yield from _imports([*node.handlers, *node.orelse, *node.finalbody])
        else:
            yield from _imports(ast.iter_child_nodes(node))


class Closure:
    """Modules that some entry points reach in an assembled image."""

    def __init__(self, root: Path, entries: Iterable[str]) -> None:
        self.root = root
        #: Names of others' modules, by the module of ours that imports them.
        self.foreign: dict[str, str] = {}
        #: Modules of ours that the image has not got, by who imports them.
        self.missing: dict[str, str] = {}
        self._seen: set[str] = set()
        waiting = [(entry, "the image") for entry in entries]
        while waiting:
            module, by = waiting.pop()
            waiting += [(found, module) for found in self._look(module, by)]

    def _look(self, module: str, by: str) -> Iterable[str]:
        top = module.partition(".")[0]
        if top not in PLACES:
            if top not in sys.stdlib_module_names and top != "__future__":
                self.foreign.setdefault(module, by)
            return ()
        if module in self._seen:
            return ()
        self._seen.add(module)
        parent = module.rpartition(".")[0]
        file = self._file_of(module)
        if file is None:
            base = self.root / PLACES[top] / module.replace(".", "/")
            # What is no module may be a name in one; where there is neither, something was left out.
            if not base.is_dir() and not self._file_of(parent):
                self.missing.setdefault(module, by)
            return (parent,) if parent else ()
        return (*imports_of(file.resolve()), *((parent,) if parent else ()))

    def _file_of(self, module: str) -> Path | None:
        base = self.root / PLACES.get(module.partition(".")[0], "") / module.replace(".", "/")
        return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.exists()), None)


def locked(locks: Iterable[Path]) -> set[str]:
    """Names of the packages that lock files hold, written as the packaging standard does."""
    return {normal(name) for lock in locks for name in re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed_files() -> Mapping[str, Sequence[tuple[str, str]]]:
    """Files of each package here: as it names them, and where they lie. Read once, for there are 50,000."""
    # `one.name` reads the whole metadata each time that it is asked.
    return {
        normal(one.name): [(str(file), str(one.locate_file(file))) for file in one.files or ()]
        for one in distributions()
    }


@cache
def installed_modules() -> Mapping[str, frozenset[str]]:
    """Packages that bring a module, for all that is installed here; a name in a module counts as the module."""
    found: dict[str, set[str]] = {}
    for package, files in installed_files().items():
        for file, _ in files:
            if file.endswith((".py", ".so")) and not file.startswith("/"):
                *folders, last = file.split("/")
                stem = last.partition(".")[0]
                name = ".".join(folders if stem == "__init__" else [*folders, stem])
                found.setdefault(name, set()).add(package)
    return {name: frozenset(owners) for name, owners in found.items()}


def owners_of(module: str) -> frozenset[str]:
    """Packages of which any brings the module."""
    known = installed_modules()
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if owners := known.get(".".join(parts[:length])):
            return owners
    return frozenset()


def files_of(packages: set[str]) -> tuple[list[str], list[str]]:
    """Files that these packages have installed here, and those of all others."""
    found: tuple[list[str], list[str]] = [], []
    for package, files in installed_files().items():
        found[package not in packages].extend(place for _, place in files)
    return found
