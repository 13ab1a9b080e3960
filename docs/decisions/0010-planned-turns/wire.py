"""Compiles planned.proto into a temporary directory and imports it; labels are those of the mesh's own contract."""

import sys
import tempfile
from pathlib import Path
from types import ModuleType

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).parent


def _compile_proto() -> ModuleType:
    with tempfile.TemporaryDirectory() as out:
        google = Path(grpc_tools.__file__).parent / "_proto"
        folders = [f"-I{folder}" for folder in (HERE, HERE.parents[2] / "protos", google)]
        arguments = ["protoc", *folders, f"--python_out={out}"]
        if protoc.main([*arguments, str(HERE / "planned.proto")]) != 0:
            raise SystemExit("planned.proto does not compile")
        sys.path.insert(0, out)
        import planned_pb2

        sys.path.remove(out)
    return planned_pb2


pb = _compile_proto()
