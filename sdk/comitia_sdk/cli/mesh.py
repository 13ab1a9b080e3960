"""`comitia up`, `down`, `status`, `logs`: the mesh on this machine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.failure import EXIT_UNREACHABLE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, show_json

if TYPE_CHECKING:
    from services.launcher.options import UpOptions
    from services.launcher.record import Addresses
    from services.launcher.status import MeshStatus

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the mesh keeps everything. Default: ~/.comitia", show_default=False),
]
_FOLLOW_SECONDS: Final = 0.2
_NO_CHECKOUT: Final = (
    "this installation has the client only; servers run from a checkout of the repository (`make up` there) "
    "or from the Helm chart"
)


def up(
    data_dir: DataDirOption = None,
    single_process: Annotated[
        bool, typer.Option("--single-process", help="All services in one process: half the memory.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the edge. Default: 7400", show_default=False)] = None,
    local_model: Annotated[
        bool | None,
        typer.Option(help="Run the local model beside it. Default: when it is installed.", show_default=False),
    ] = None,
) -> None:
    """Starts the whole mesh: Postgres, NATS, seven services, Envoy.

    Example:  comitia up --detach
    """
    launcher = import_launcher()
    options: UpOptions = launcher.UpOptions(
        data_dir=data_dir, single_process=single_process, detach=detach, edge_port=port, local_model=local_model
    )
    start_mesh(options, _next_commands)


def down(data_dir: DataDirOption = None) -> None:
    """Stops the mesh and everything it started.

    Example:  comitia down
    """
    if import_launcher().down(data_dir):
        typer.echo("the mesh is down; its data is kept")
    else:
        typer.echo("no mesh is running")


def status(data_dir: DataDirOption = None, output: FormOption = Form.TABLE) -> None:
    """Shows every part of the mesh with its memory.

    Example:  comitia status -o json
    """
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


def logs(
    part: Annotated[str, typer.Argument(help="A service, postgres, nats, envoy, launcher or local-model.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    data_dir: DataDirOption = None,
) -> None:
    """Shows what a part of the mesh has logged, or which logs there are.

    Example:  comitia logs orchestrator -f
    """
    paths: dict[str, Path] = import_launcher().log_paths(data_dir)
    if not part:
        for name, path in paths.items():
            typer.echo(f"{name:<14} {path}")
        return
    if part not in paths:
        known = ", ".join(paths) or "none yet; start the mesh with `comitia up`"
        raise CommandFailed(f"there is no log of {part!r}; there are: {known}")
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
    with _StepDisplay() as display:

        def when_ready(addresses: "Addresses") -> None:
            display.close()
            ready(addresses)

        uvloop.run(launcher.run(options, display.show, when_ready))


class _StepDisplay:
    """One line for each step, with a spinner on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status: Any = None
        self._running: list[str] = []

    def __enter__(self) -> "_StepDisplay":
        if self._console.is_terminal:
            self._status = self._console.status("starting the mesh")
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
            self._status.update(f"starting {', '.join(self._running)}")


def _next_commands(addresses: "Addresses") -> None:
    typer.echo("")
    if addresses.edge_url:
        typer.echo(f"mesh       {addresses.edge_url}   (REST, SSE, gRPC, gRPC-Web on one port)")
    typer.echo(f"admin key  {addresses.admin_key_path}")
    typer.echo("next       comitia demo")


def _show_status(found: "MeshStatus") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "state", "port", "pid", "up", "memory", "restarts", box=box.SIMPLE_HEAD)
    for child in found.children:
        memory = f"{child.pss_bytes / 1_000_000:.0f} MB" if child.pss_bytes else ""
        cells = (
            child.name,
            child.state,
            str(child.port or ""),
            str(child.pid),
            f"{child.uptime_seconds:.0f} s",
            memory,
        )
        table.add_row(*cells, str(child.restarts or ""))
    Console().print(table)
    typer.echo(f"memory in all {found.pss_bytes / 1_000_000:.0f} MB")
    if found.addresses and found.addresses.edge_url:
        typer.echo(f"address {found.addresses.edge_url}")


def _show_log(path: Path, *, lines: int, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as log:
        last = log.readlines()[-lines:] if lines else []
        typer.echo("".join(last), nl=False)
        while follow:
            line = log.readline()
            if line:
                typer.echo(line, nl=False)
            else:
                time.sleep(_FOLLOW_SECONDS)
