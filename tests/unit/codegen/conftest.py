"""A small library's protos, and ways to spoil them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.codegen.contract import Contract
from protos.codegen.stubs import ProtoTree, descriptor_set

ROOT = Path(__file__).resolve().parents[3]
FIXTURE = Path(__file__).parent / "fixture"
BOOK_SERVICE = "comitia/library/v1/book_service.proto"


@pytest.fixture
def library(tmp_path: Path) -> ProtoTree:
    """A tree of protos with the library in it."""
    own = tmp_path / "protos"
    shutil.copytree(FIXTURE, own)
    (own / "comitia" / "common" / "v1").mkdir(parents=True)
    guard = "comitia/common/v1/guard.proto"
    shutil.copyfile(ROOT / "protos" / guard, own / guard)
    return ProtoTree(own=own, vendored=ROOT / "third_party" / "protos")


@pytest.fixture
def contract(library: ProtoTree, tmp_path: Path) -> Contract:
    """The library's contract."""
    return Contract(descriptor_set(library, tmp_path))


@pytest.fixture
def changed(library: ProtoTree, tmp_path: Path) -> Callable[[str, str], Contract]:
    """Gives the library's contract with one text replaced."""

    def change(old: str, new: str) -> Contract:
        path = library.own / BOOK_SERVICE
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")
        return Contract(descriptor_set(library, tmp_path))

    return change
