"""`make gen` writes typed stubs, a guard table and descriptors, and says clearly what is missing."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.codegen import guard_table
from protos.codegen.__main__ import differences, generate, synchronise
from protos.codegen.contract import Contract
from protos.codegen.errors import CodegenError
from protos.codegen.stubs import ProtoTree
from tests.unit.codegen.conftest import BOOK_SERVICE

Change = Callable[[str, str], Contract]
READ = '{permission: "books.read" per_tenant_per_second: 5 max_seconds: 2}'
HEAD = f"option (comitia.common.v1.guard) = {READ};"


@pytest.fixture
def gen(library: ProtoTree, tmp_path: Path) -> Path:
    out = tmp_path / "gen"
    generate(library, out, version="1")
    return out


def test_every_rpc_stands_in_the_guard_table(gen: Path) -> None:
    spec = importlib.util.spec_from_file_location("library_guards", gen / "python" / "comitia" / "guard_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    guards = module.GUARDS
    path = "/comitia.library.v1.BookService/"
    assert guards[path + "GetBook"] == module.Guard("books.read", 5, 2, False, frozenset(), per_subject_per_second=4)
    assert guards[path + "WatchBooks"].open
    assert guards[path + "BatchLend"].peers == {"library"}
    assert len(guards) == 6


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ("", 80),
        ("per_tenant_per_second: 1", 1),
        ("per_tenant_per_second: 9", 8),
        ("per_tenant_per_second: 9 per_subject_per_second: 9", 9),
        ("per_tenant_per_second: 9 per_subject_per_second: 2", 2),
    ],
)
def test_a_caller_has_most_of_what_its_tenant_has_unless_the_guard_says_more(
    changed: Change, limits: str, share: int
) -> None:
    contract = changed(READ, f'{{permission: "books.read" max_seconds: 2 {limits}}}')
    [row] = [row for row in guard_table.render(contract.rpcs()).splitlines() if "BookService/GetBook" in row]
    assert f"per_subject_per_second={share})" in row


def test_who_has_no_subject_gets_no_share_of_one(contract: Contract) -> None:
    rows = guard_table.render(contract.rpcs()).splitlines()
    [watch] = [row for row in rows if "BookService/WatchBooks" in row]
    [lend] = [row for row in rows if "BookService/BatchLend" in row]
    assert "per_subject" not in watch + lend


def test_stubs_are_typed_packages_that_import(gen: Path) -> None:
    package = gen / "python" / "comitia"
    for name in (
        "book_service_pb2.py",
        "book_service_pb2.pyi",
        "book_service_pb2_grpc.py",
        "book_service_pb2_grpc.pyi",
    ):
        assert (package / "library" / "v1" / name).exists()
    assert (package / "py.typed").exists()
    assert not (package / "common" / "v1" / "guard_pb2_grpc.py").exists()
    code = "from comitia.library.v1 import book_service_pb2_grpc as s; print(s.BookServiceStub.__name__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(gen / 'python'), *sys.path]!r}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "BookServiceStub\n", done.stderr


def test_the_descriptor_set_stands_alone_and_explains_itself(gen: Path) -> None:
    files = FileDescriptorSet.FromString((gen / "descriptors" / "comitia.binpb").read_bytes())
    Contract(files)  # builds a pool: nothing that is imported is missing
    names = {file.name for file in files.file}
    assert {"google/rpc/error_details.proto", "google/api/http.proto"} <= names
    services = {f"{file.package}.{service.name}" for file in files.file for service in file.service}
    assert services == {
        "comitia.library.v1.BookService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert next(file for file in files.file if file.name == BOOK_SERVICE).source_code_info.location


def test_the_same_protos_give_the_same_bytes(library: ProtoTree, gen: Path, tmp_path: Path) -> None:
    generate(library, tmp_path / "again", version="1")
    assert differences(tmp_path / "again", gen) == []


def test_synchronise_changes_only_what_differs(gen: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    synchronise(gen, current)
    table = Path("python/comitia/guard_table.py")
    (current / table).write_text("edited by hand", encoding="utf-8")
    (current / "left_over.txt").write_text("of an older version", encoding="utf-8")
    (current / "openapi" / "comitia.json").unlink()
    wrong = [Path("left_over.txt"), Path("openapi/comitia.json"), table]
    assert differences(gen, current) == wrong
    assert synchronise(gen, current) == wrong
    assert differences(gen, current) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (HEAD, "", "BookService.GetBook has no guard."),
        (READ, "{max_seconds: 2}", "GetBook needs either a permission or `open: true`"),
        (READ, '{permission: "books.read" open: true}', "GetBook needs either a permission or `open: true`"),
        (READ, "{open: true per_tenant_per_second: 5}", "GetBook is open: it knows no tenant and no subject."),
        (READ, '{permission: "books.read" per_address_per_second: 5}', "GetBook limits addresses"),
        (READ, '{permission: "books.read" per_subject_per_second: 101}', "GetBook allows one caller more calls"),
        ('peers: "library"', 'per_tenant_per_second: 5 peers: "library"', "BatchLend is internal, and calls between"),
        ('peers: "library"', 'peers: "bakery"', "BatchLend names peers that are no service: bakery."),
        (READ, '{permission: "books.read" peers: "library"}', "GetBook is internal"),
    ],
)
def test_annotations_are_checked(changed: Change, old: str, new: str, sentence: str) -> None:
    spoiled = changed(old, new)
    with pytest.raises(CodegenError) as refusal:
        guard_table.check(spoiled)
    assert sentence in str(refusal.value)


def test_a_public_rpc_without_rest_says_why(changed: Change) -> None:
    guard_table.check(changed(' peers: "library"', ""))
    with pytest.raises(CodegenError, match=r"BatchLend is public without google\.api\.http"):
        guard_table.check(changed(" Has no REST form: frames go both ways.", ""))


def test_what_protoc_refuses_is_told_with_file_and_line(library: ProtoTree, tmp_path: Path) -> None:
    path = library.own / BOOK_SERVICE
    path.write_text(path.read_text(encoding="utf-8").replace("string name = 1;", "strong name = 1;"), encoding="utf-8")
    with pytest.raises(CodegenError, match=r"book_service\.proto:\d+.*strong"):
        generate(library, tmp_path / "out", version="1")
    assert not (tmp_path / "out").exists()
