"""`python -m protos.codegen` writes `gen/`; with `--check` it only says whether `gen/` is current."""

import argparse
import filecmp
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from protos.codegen import guard_table, openapi
from protos.codegen.contract import Contract
from protos.codegen.errors import CodegenError
from protos.codegen.stubs import ProtoTree, descriptor_set, write_stubs

ROOT = Path(__file__).resolve().parents[2]


def generate(tree: ProtoTree, out: Path, *, version: str) -> None:
    """Writes everything to `out`. Raises CodegenError, before anything is written, when an annotation is missing."""
    with tempfile.TemporaryDirectory() as scratch:
        files = descriptor_set(tree, Path(scratch))
    contract = Contract(files)
    guard_table.check(contract)
    document = openapi.render(contract, version=version)
    write_stubs(tree, out / "python")
    (out / "python" / "comitia" / "guard_table.py").write_text(guard_table.render(contract.rpcs()), encoding="utf-8")
    for folder in ("descriptors", "openapi"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "descriptors" / "comitia.binpb").write_bytes(files.SerializeToString(deterministic=True))
    (out / "openapi" / "comitia.json").write_text(document, encoding="utf-8")


def files_below(folder: Path) -> set[Path]:
    """Relative paths of the files below a folder, without what Python leaves behind."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def differences(fresh: Path, current: Path) -> list[Path]:
    """Files that are missing, left over or different in `current`."""
    ours, theirs = files_below(fresh), files_below(current)
    changed = (path for path in ours & theirs if not filecmp.cmp(fresh / path, current / path, shallow=False))
    return sorted({*(ours ^ theirs), *changed})


def synchronise(fresh: Path, current: Path) -> list[Path]:
    """Makes `current` equal to `fresh` and touches nothing that is already right. Returns what changed."""
    changed = differences(fresh, current)
    for path in changed:
        target = current / path
        if (fresh / path).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, target)
        else:
            target.unlink()
    return changed


def main(arguments: list[str]) -> int:
    """Generates or checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m protos.codegen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether gen/ is current")
    check = parser.parse_args(arguments).check
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tree = ProtoTree(own=ROOT / "protos", vendored=ROOT / "third_party" / "protos")
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        try:
            generate(tree, fresh, version=project["version"])
        except CodegenError as problem:
            print(problem, file=sys.stderr)
            return 1
        changed = differences(fresh, ROOT / "gen") if check else synchronise(fresh, ROOT / "gen")
    for path in changed:
        print(f"{'not current' if check else 'wrote'}: gen/{path}")
    if check and changed:
        print("Run `make gen` and commit what it changes.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
