"""`comitia kek …`: the key that wraps the data keys of the mesh on this machine."""

from typing import Any

import typer

from comitia_sdk.cli.mesh import DataDirOption, import_launcher
from comitia_sdk.cli.output import Form, FormOption, show_json, show_rows

app = typer.Typer(
    no_args_is_help=True,
    help="The key that wraps the data keys of this mesh: replace it, see how far that is, remove old ones.",
)


@app.command()
def rotate(data_dir: DataDirOption = None) -> None:
    """Makes a new key. Data keys are wrapped anew within a minute while the mesh runs; payloads stay as they are.

    Back up the file that is named: without it nothing that is sealed can be read.

    Example:  comitia kek rotate
    """
    made = _launcher().rotate_kek(data_dir)
    typer.echo(f"the key {made} wraps from now on; see `comitia kek status`, and back up the folder keys/")


@app.command()
def status(data_dir: DataDirOption = None, output: FormOption = Form.TABLE) -> None:
    """Shows which key wraps how many data keys of which service.

    Example:  comitia kek status
    """
    used = _launcher().kek_status(data_dir)
    if output is Form.JSON:
        from dataclasses import asdict

        show_json([asdict(kek) for kek in used])
        return
    services = tuple(used[0].data_keys)
    rows = [(kek.id, "yes" if kek.current else "", *(str(kek.data_keys[one]) for one in services)) for kek in used]
    show_rows(output, [], ("key", "wraps new", *services), rows, empty="there is no key")


@app.command()
def retire(data_dir: DataDirOption = None) -> None:
    """Removes keys that wrap nothing any more. Refuses while one still does, and for ten minutes after a new one.

    Backups of the databases from before open with the removed keys only: keep those as long as you keep the backups.

    Example:  comitia kek retire
    """
    removed = _launcher().retire_keks(data_dir)
    typer.echo(f"removed: {', '.join(removed)}" if removed else "there is nothing to remove")


def _launcher() -> Any:
    """Gives the launcher's functions. Typed as Any, because the client must not depend on the servers."""
    import_launcher()
    from importlib import import_module

    return import_module("services.launcher.kek")
