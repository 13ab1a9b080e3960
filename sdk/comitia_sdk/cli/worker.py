"""`comitia worker`: functions of yours make steps of workflows."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import plain

if TYPE_CHECKING:
    from comitia_sdk.worker import Worker, WorkerNews

app = typer.Typer(no_args_is_help=True, help="Workers: functions of yours that make steps of workflows.")

_COLOURS: Final = {
    "connected": typer.colors.GREEN,
    "done": typer.colors.GREEN,
    "disconnected": typer.colors.YELLOW,
    "revoked": typer.colors.YELLOW,
    "refused": typer.colors.YELLOW,
    "failed": typer.colors.RED,
}
#: Said of every step, and left out with --quiet.
_OF_EVERY_STEP: Final = frozenset({"began", "done", "given back"})


@app.command("run")
def run(
    worker: Annotated[
        str, typer.Argument(metavar="MODULE:WORKER", help="Where the `Worker` is, such as claims:worker.")
    ],
    pool: Annotated[str, typer.Option(help="Pool that it serves, in place of its own.")] = "",
    name: Annotated[str, typer.Option(help="Name for people, in place of its own.")] = "",
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, metavar="N", help="Steps made at once, in place of its own number.")
    ] = None,
    projects: Annotated[
        list[str] | None,
        typer.Option(
            "--project", metavar="NAME", help="Project whose runs it serves, in place of its own; once for each."
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time for steps at work to end after SIGTERM or Ctrl-C.")
    ] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of steps that go well.")] = False,
) -> None:
    """Works until it is told to stop; then finishes the steps that it has. A second Ctrl-C gives them back at once.

    The module is looked for in this directory too. When the mesh is away, it is called again until it is back.

    Examples:

      comitia worker run claims:worker

      comitia worker run claims:worker --pool gpu --concurrency 4 --quiet

      COMITIA_URL=https://mesh.example.com COMITIA_API_KEY=ck_… comitia worker run claims:worker
    """
    found = _found(worker)
    found.pool, found.name = pool or found.pool, name or found.name
    found.concurrency, found.projects = concurrency or found.concurrency, tuple(projects or found.projects)
    try:
        found.check()
    except ValueError as error:
        raise CommandFailed(str(error), code=EXIT_USAGE) from error
    typer.echo(f"{found.name} makes {', '.join(found.steps)} of pool {found.pool}, {found.concurrency} at once")

    def tell(news: "WorkerNews") -> None:
        if not (quiet and news.kind in _OF_EVERY_STEP):
            _show(news)

    found.run(grace=grace, tell=tell)


def _show(news: "WorkerNews") -> None:
    from datetime import datetime

    words = [datetime.now().astimezone().strftime("%H:%M:%S"), f"{news.kind:<12}"]
    if news.step is not None:
        attempt = f" attempt {news.step.attempt}" if news.step.attempt > 1 else ""
        words.append(f"{news.step.name} {news.step.run_id} {news.step.path}{attempt}")
        if news.kind in ("done", "failed"):
            words.append(f"{news.seconds:.3f} s")
    typer.secho(plain("  ".join([*words, news.text]).rstrip()), fg=_COLOURS.get(news.kind))


def _found(place: str) -> "Worker":
    """Imports a worker. Raises: CommandFailed."""
    from comitia_sdk.worker import Worker

    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise CommandFailed(f"{place!r} names no worker; it looks like claims:worker", code=EXIT_USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise CommandFailed(f"there is no module {error.name!r} here or installed", code=EXIT_USAGE) from error
        raise CommandFailed(f"module {module_name!r} needs {error.name!r}, which is not installed") from error
    found: Any = getattr(module, attribute, None)
    if not isinstance(found, Worker):
        workers = [name for name, value in vars(module).items() if isinstance(value, Worker)]
        hint = f"; it has {', '.join(workers)}" if workers else "; make one with `worker = Worker()`"
        raise CommandFailed(f"module {module_name!r} has no worker {attribute!r}{hint}", code=EXIT_USAGE)
    return found
