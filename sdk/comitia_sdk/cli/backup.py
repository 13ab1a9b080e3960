"""`comitia backup`, `restore` and `check`: the mesh on this machine is kept elsewhere, brought back, looked through."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comitia_sdk.cli.failure import EXIT_REFUSED
from comitia_sdk.cli.mesh import DataDirOption, StepDisplay, import_launcher
from comitia_sdk.cli.output import Form, FormOption, plain, show_json, show_lines

if TYPE_CHECKING:
    from services.launcher.backups.checks import CheckedMesh
    from services.launcher.backups.manifest import Manifest
    from services.launcher.backups.restore import Restored

RunsOption = Annotated[
    int, typer.Option("--runs", min=0, metavar="N", help="How many runs are replayed, the newest first.")
]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it; nothing is there yet.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="FILE",
            help="Write all keys and passwords to this file. They are not in the backup: keep them apart from it.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Copies the mesh on this machine while it runs: seven databases at one moment, objects, the audit trail.

    Without its keys nobody reads what agents said in it, and nobody restores it.

    Example:  comitia backup /backups/monday --keys /safe/monday.keys
    """
    with StepDisplay("copying") as display:
        made: Manifest = _launcher("take").back_up(folder, data_dir=data_dir, keys=keys, report=display.show)
    if output is Form.JSON:
        show_json(_json_of(made))
        return
    typer.echo("")
    show_lines(
        [
            ("backup", str(folder)),
            ("holds", f"all that was committed before {_moment(made.start_time)}"),
            ("size", f"{made.bytes / 1e6:,.1f} MB"),
            ("log from", f"{made.wal_first_segment} on, in an archive of --archive-wal; what sorts before it may go"),
            ("keys", str(keys) if keys else "not in it; keep a file of `comitia backup --keys` apart from it"),
            ("restore", f"comitia restore {folder} --keys {keys or 'FILE'} --data-dir FOLDER"),
        ]
    )


def restore(
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `comitia backup` wrote.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="FILE",
            help="What `comitia backup --keys` wrote, or the data directory that the backup is of.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            metavar="TIME",
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"],
            help="Moment after the backup, UTC, such as 2026-03-01T12:00:00; needs --archive. Default: the latest.",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            metavar="FOLDER",
            help="What `comitia up --archive-wal` wrote since the backup.",
            show_default=False,
        ),
    ] = None,
    runs: RunsOption = 200,
    keep_unsound: Annotated[
        bool,
        typer.Option("--keep-unsound", help="Keep it even if a look finds a fault; exits with 1 then all the same."),
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a new data directory of a backup, and looks through all of it before it counts. Starts nothing.

    Example:  comitia restore /backups/monday --keys /safe/monday.keys --data-dir ~/restored

    Example:  comitia restore /backups/monday --keys /safe/monday.keys --archive /wal --until 2026-03-01T12:00:00
    """
    launcher = _launcher("restore")
    moment = None if until is None else until.replace(tzinfo=UTC)
    wish = launcher.Wish(
        backup=folder,
        data_dir=data_dir,
        keys=keys,
        archive=archive,
        until=moment,
        runs=runs,
        keep_unsound=keep_unsound,
    )
    with StepDisplay("restoring") as display:
        made: Restored = launcher.restore(wish, display.show)
    if output is Form.JSON:
        last = made.last_commit.isoformat()
        show_json({"data_dir": str(made.data.root), "last_commit_time": last, **_found(made.checked)})
    else:
        _show_restored(made)
    if made.checked.faults:
        raise typer.Exit(EXIT_REFUSED)


def check(runs: RunsOption = 200, data_dir: DataDirOption = None, output: FormOption = Form.TABLE) -> None:
    """Looks through all that the mesh on this machine has on record. Changes nothing; exits with 1 if a thing is wrong.

    Audit entries are hashed again and compared with signed heads, runs are replayed from their journals, and budgets
    are held against the ledger. `restore` does the same.

    Example:  comitia check --runs 1000
    """
    import os

    with StepDisplay("looking through") as display:
        found: CheckedMesh = _launcher("checks").check_running(data_dir, os.environ, display.show, runs=runs)
    if output is Form.JSON:
        show_json(_found(found))
    else:
        typer.echo("")
        _show_found(found)
    if found.faults:
        raise typer.Exit(EXIT_REFUSED)


def _show_restored(made: "Restored") -> None:
    typer.echo("")
    _show_found(made.checked)
    typer.echo("vectors: memory fills them again from Postgres at the first start; nats holds nothing that is missed")
    typer.echo(f"restored to {made.data.root}, as of {_moment(made.last_commit)}")
    typer.echo(
        "before you start it: stop the mesh that it is a copy of, for both would go on with the same runs; "
        "and read in docs/backup.md what a return in time brings back"
    )
    typer.echo(f"next       comitia up --detach --data-dir {made.data.root}")


def _show_found(found: "CheckedMesh") -> None:
    for one in found.found:
        typer.secho(f"{'wrong' if one.faults else 'sound'}: {one.what}", fg=typer.colors.RED if one.faults else None)
        for fault in one.faults:
            typer.secho(f"  {plain(fault)}", fg=typer.colors.RED)


def _found(found: "CheckedMesh") -> dict[str, Any]:
    from dataclasses import asdict

    return {"sound": not found.faults, "checks": [asdict(one) for one in found.found]}


def _json_of(made: "Manifest") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(made), "start_time": made.start_time.isoformat(), "end_time": made.end_time.isoformat()}


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _launcher(part: str) -> Any:
    """Gives the launcher's functions. Typed as Any, because the client must not depend on the servers."""
    import_launcher()
    from importlib import import_module

    return import_module(f"services.launcher.backups.{part}")
