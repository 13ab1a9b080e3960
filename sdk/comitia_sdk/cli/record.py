"""`comitia run replay | export`: the record of runs. A session is a run and shares its id."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.drafts import draft
from comitia_sdk.cli.failure import EXIT_REFUSED
from comitia_sdk.cli.output import Form, FormOption, as_json, show_json
from comitia_sdk.cli.replay import show_replay

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run or session, `run_…`.")]


def replay(run_id: RunId, output: FormOption = Form.TABLE) -> None:
    """Executes a run again from its journal and compares every decision. Exits with 1 when one differs.

    Nobody is called and nothing changes.

    Example:  comitia run replay run_01j…
    """
    with client() as mesh:
        report = mesh.records.replay(run_id)
    if output is Form.JSON:
        show_json(as_json(report))
    else:
        show_replay(report)
    if not report.same:
        raise typer.Exit(EXIT_REFUSED)


def export(
    run_id: RunId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; `-` for standard output.")],
) -> None:
    """Writes a run with all that it pinned as one file, for `comitia replay`.

    The file holds what agents were asked and said, in plain text.

    Example:  comitia run export run_01j… run.jsonl
    """
    if str(file) == "-":
        with client() as mesh:
            mesh.records.save(run_id, sys.stdout.buffer)
        return
    with draft(file) as (part, progress), client() as mesh:
        written = mesh.records.save(run_id, part, told=lambda done: progress(f"{done:,} bytes"))
    typer.echo(f"{written:,} bytes in {file}; replay them anywhere with `comitia replay {file}`")
