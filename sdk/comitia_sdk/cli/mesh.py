"""`comitia up`, `down`, `status`, `logs`: the mesh on this machine."""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, show_json, show_rows

if TYPE_CHECKING:
    from services.launcher.options import UpOptions
    from services.launcher.record import Addresses
    from services.launcher.status import MeshStatus

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Where the mesh keeps everything. Default: COMITIA_DATA_DIR, else ~/.comitia",
        show_default=False,
    ),
]
_FOLLOW_SECONDS: Final = 0.2
_NO_CHECKOUT: Final = (
    "this installation has the client only; servers run from a checkout of the repository (`make up` there) "
    "or from the Helm chart"
)


def up(
    data_dir: DataDirOption = None,
    single_process: Annotated[
        bool, typer.Option("--single-process", help="All services in one process; takes half the memory.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Where callers reach it; 0 takes any free one. Default: that of the last start, else 7400.",
            show_default=False,
        ),
    ] = None,
    local_model: Annotated[
        bool | None,
        typer.Option(help="Run the small local model, too. Default: when it is installed.", show_default=False),
    ] = None,
    archive_wal: Annotated[
        Path | None,
        typer.Option(
            "--archive-wal",
            metavar="FOLDER",
            help="Keep the log of the embedded Postgres there, so that a backup can be restored to any later moment.",
            show_default=False,
        ),
    ] = None,
    mtls: Annotated[
        bool,
        typer.Option(
            "--mtls",
            help="Services and edge speak TLS with each other, by certificates that are made here and renewed in time. "
            "Without it: plain text, on this machine alone.",
        ),
    ] = False,
    east_west: Annotated[
        bool,
        typer.Option(
            "--east-west",
            help="Services call each other through an Envoy of their own, which balances, repeats and leaves out what "
            "fails, instead of directly. With --mtls only.",
        ),
    ] = False,
    orchestrators: Annotated[
        int,
        typer.Option(
            min=1, max=8, metavar="N", help="Processes of the orchestrator. They share the runs; one may die meanwhile."
        ),
    ] = 1,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, max=8, metavar="N", help="Processes of each other service but memory; one may be replaced meanwhile."
        ),
    ] = 1,
) -> None:
    """Starts the whole mesh: Postgres, NATS, seven services and Envoy.

    Stays in the foreground until Ctrl-C, unless told to --detach. Data is kept; a second start goes on where the first
    one ended. Keys of model providers are taken from the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY.

    Example:  comitia up --detach
    """
    launcher = import_launcher()
    options: UpOptions = launcher.UpOptions(
        data_dir=data_dir,
        single_process=single_process,
        detach=detach,
        edge_port=port,
        local_model=local_model,
        archive_wal=None if archive_wal is None else archive_wal.absolute(),
        mtls=mtls,
        east_west=east_west,
        orchestrators=orchestrators,
        replicas=replicas,
    )
    start_mesh(options, lambda addresses: _next_commands(addresses, detach=detach))


def down(data_dir: DataDirOption = None) -> None:
    """Stops the mesh and everything it started.

    Example:  comitia down
    """
    if import_launcher().down(data_dir):
        typer.echo("the mesh is down; its data is kept")
    else:
        typer.echo("no mesh is running")


def status(data_dir: DataDirOption = None, output: FormOption = Form.TABLE) -> None:
    """Shows how the mesh is: every process on this machine with its memory, or the services of a mesh elsewhere.

    Asks the mesh that COMITIA_URL names, where it is set. Exits with 1 when a part is not well, 3 without a mesh.

    Example:  comitia status -o json
    """
    if data_dir is None and os.environ.get("COMITIA_URL"):
        _status_elsewhere(output)
        return
    found: MeshStatus = import_launcher().status(data_dir)
    if output is Form.JSON:
        from dataclasses import asdict

        show_json({**asdict(found), "pss_bytes": found.pss_bytes})
    elif not found.running:
        typer.echo("no mesh is running; start one with `comitia up --detach`")
    else:
        _show_status(found)
    if not found.running:
        raise typer.Exit(EXIT_UNREACHABLE)
    if any(child.state != "healthy" for child in found.children):
        raise typer.Exit(EXIT_REFUSED)


def _status_elsewhere(output: Form) -> None:
    """Asks the edge of a mesh for the health of its services."""
    from comitia.gateway.v1.status_service_pb2 import ServiceHealth
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found, url = mesh.status(), mesh.url
    if output is Form.JSON:
        show_json(as_json(found))
    else:
        rows = [(service.name, short_name(ServiceHealth, service.health)) for service in found.services]
        show_rows(output, [], ("service", "health"), rows, empty="the mesh names no services")
        typer.echo(f"address {url}, version {found.version}")
    if not found.serving:
        raise typer.Exit(EXIT_REFUSED)


def logs(
    part: Annotated[
        str, typer.Argument(metavar="[PART]", help="A service, postgres, nats, edge, launcher …; without it: which.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    data_dir: DataDirOption = None,
) -> None:
    """Shows what a part of the mesh on this machine has logged, or which logs there are.

    Example:  comitia logs orchestrator -f
    """
    paths: dict[str, Path] = import_launcher().log_paths(data_dir)
    if not part and not paths:
        typer.echo("no logs yet; start the mesh with `comitia up --detach`")
    if not part:
        for name, path in paths.items():
            typer.echo(f"{name:<14} {path}")
        return
    if part not in paths:
        known = ", ".join(paths) or "none yet; start the mesh with `comitia up --detach`"
        raise CommandFailed(f"there is no log of {part!r}; there are: {known}", code=EXIT_USAGE)
    _show_log(paths[part], lines=lines, follow=follow)


def import_launcher() -> Any:
    """Gives the launcher's functions in one namespace. Raises: CommandFailed: this is no checkout.

    Typed as Any, because the client must not depend on the servers.
    """
    from importlib import import_module
    from types import SimpleNamespace

    try:
        mesh, options, state = (import_module(f"services.launcher.{name}") for name in ("mesh", "options", "status"))
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "services":
            raise CommandFailed(_NO_CHECKOUT) from error
        raise CommandFailed(f"the package {missing!r} is missing; run `make setup` in the checkout") from error
    return SimpleNamespace(
        run=mesh.run,
        UpOptions=options.UpOptions,
        StepState=options.StepState,
        status=state.status,
        down=state.down,
        log_paths=state.log_paths,
    )


def start_mesh(options: "UpOptions", ready: Callable[["Addresses"], None]) -> None:
    """Runs a mesh, or leaves it in the background; shows each step while it waits."""
    import uvloop

    launcher = import_launcher()
    with StepDisplay("starting") as display:

        def when_ready(addresses: "Addresses") -> None:
            display.close()
            ready(addresses)

        uvloop.run(launcher.run(options, display.show, when_ready))


class StepDisplay:
    """One line for each step, with a spinner on a terminal."""

    def __init__(self, doing: str) -> None:
        from rich.console import Console

        self._doing = doing
        self._console = Console(stderr=True)
        self._status: Any = None
        self._running: list[str] = []

    def __enter__(self) -> "StepDisplay":
        if self._console.is_terminal:
            self._status = self._console.status(f"{self._doing} the mesh")
            self._status.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the spinner."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def show(self, progress: Any) -> None:
        """Takes one change of one step."""
        state = str(progress.state)
        if state == "started":
            self._running.append(progress.step)
        elif progress.step in self._running:
            self._running.remove(progress.step)
        if state == "done":
            self._console.print(
                f"[green]✓[/green] {progress.step:<14} {progress.seconds:5.1f} s  {progress.detail}", highlight=False
            )
        elif state == "failed":
            self._console.print(f"[red]✗[/red] {progress.step}", highlight=False)
        if self._status is not None and self._running:
            self._status.update(f"{self._doing} {', '.join(self._running)}")


def _next_commands(addresses: "Addresses", *, detach: bool) -> None:
    from comitia_sdk.context import find_data_dir

    usual = find_data_dir(None, os.environ).absolute() == Path(addresses.data_dir)
    # Without it, the next command would look for the mesh in the usual place.
    place = "" if usual else f"COMITIA_DATA_DIR={addresses.data_dir} "
    typer.echo("")
    if addresses.edge_url:
        typer.echo(f"mesh       {addresses.edge_url}   (gRPC, gRPC-Web, REST and SSE on one port)")
    typer.echo(f"admin key  {addresses.admin_key_path}")
    typer.echo(f"next       {place}comitia demo")
    typer.echo(f"end        {f'{place}comitia down' if detach else 'Ctrl-C'}")


def _show_status(found: "MeshStatus") -> None:
    rows = [
        (
            child.name,
            child.state,
            str(child.port or ""),
            str(child.pid),
            _span(child.uptime_seconds),
            f"{child.pss_bytes / 1_000_000:.0f} MB" if child.pss_bytes else "",
            str(child.restarts or ""),
        )
        for child in found.children
    ]
    show_rows(Form.TABLE, [], ("part", "state", "port", "pid", "up", "memory", "restarts"), rows, empty="")
    typer.echo(f"memory in all {found.pss_bytes / 1_000_000:.0f} MB")
    typer.echo(f"between services {between_services(found)}")
    if found.addresses and found.addresses.edge_url:
        typer.echo(f"address {found.addresses.edge_url}")


def between_services(found: "MeshStatus") -> str:
    """Says what the services of a mesh on this machine speak with each other."""
    if found.mtls:
        return "TLS with certificates on both ends, see `comitia certificate status`"
    return "plain text, on this machine alone"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def _show_log(path: Path, *, lines: int, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as log:
        typer.echo("".join(deque(log, maxlen=lines)), nl=False)
        while follow:
            line = log.readline()
            if line:
                typer.echo(line, nl=False)
            else:
                time.sleep(_FOLLOW_SECONDS)
