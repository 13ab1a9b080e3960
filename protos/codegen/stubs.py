"""Runs protoc: Python stubs with types, and the descriptor set that everything else is made from."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos.codegen.errors import CodegenError

#: What errors are made of on the wire. Ours need not import them, but Envoy writes them as JSON.
ERRORS = ("google/rpc/error_details.proto", "google/rpc/status.proto")


@dataclass(frozen=True, slots=True)
class ProtoTree:
    """Where the protos lie."""

    #: Our own protos; every file below is compiled.
    own: Path
    #: Vendored protos that ours import.
    vendored: Path

    def own_files(self) -> list[str]:
        """Paths of our protos as an `import` names them, sorted."""
        return sorted(path.relative_to(self.own).as_posix() for path in self.own.rglob("*.proto"))


def write_stubs(tree: ProtoTree, out: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2_grpc.py`, their `.pyi` files and the packages around them to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = tree.own_files()
    with_services = [file for file in files if "\nservice " in (tree.own / file).read_text(encoding="utf-8")]
    _protoc(tree, [f"--python_out={out}", f"--mypy_out=quiet:{out}"], files)
    if with_services:
        _protoc(tree, [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"], with_services)
    for folder in sorted({parent for path in out.rglob("*_pb2.py") for parent in path.relative_to(out).parents}):
        if folder != Path():
            (out / folder / "__init__.py").touch()
    for top in {Path(file).parts[0] for file in files}:
        (out / top / "py.typed").touch()


def descriptor_set(tree: ProtoTree, scratch: Path) -> FileDescriptorSet:
    """Compiles our protos, all they import, and the standard services to one descriptor set with comments."""
    target = scratch / "own.binpb"
    flags = [f"--descriptor_set_out={target}", "--include_imports", "--include_source_info"]
    _protoc(tree, flags, [*tree.own_files(), *ERRORS])
    files = FileDescriptorSet.FromString(target.read_bytes())
    present = {file.name for file in files.file}
    files.file.extend(file for file in standard_services() if file.name not in present)
    return files


def standard_services() -> list[FileDescriptorProto]:
    """Health and reflection, as the gRPC packages define them; reflection v1 is v1alpha under its final name."""
    health = FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    return [health, alpha, _without_alpha(alpha)]


def _without_alpha(alpha: FileDescriptorProto) -> FileDescriptorProto:
    final = FileDescriptorProto()
    final.CopyFrom(alpha)
    final.name = "grpc/reflection/v1/reflection.proto"
    final.package = "grpc.reflection.v1"
    final.ClearField("options")
    prefix = f".{alpha.package}."
    for message in final.message_type:
        for field in message.field:
            if field.type_name.startswith(prefix):
                field.type_name = f".{final.package}.{field.type_name.removeprefix(prefix)}"
    for service in final.service:
        for method in service.method:
            method.input_type = f".{final.package}.{method.input_type.removeprefix(prefix)}"
            method.output_type = f".{final.package}.{method.output_type.removeprefix(prefix)}"
    return final


def _protoc(tree: ProtoTree, flags: Sequence[str], files: Sequence[str]) -> None:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    includes = [f"--proto_path={path}" for path in (tree.own, tree.vendored, well_known)]
    # The plug-ins protoc-gen-mypy and protoc-gen-mypy_grpc lie beside the interpreter, which need not be on PATH.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *flags, *files]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CodegenError(f"protoc refused the protos:\n{done.stderr.strip()}")
