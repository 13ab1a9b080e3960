"""`comitia run`: runs, sessions among them."""

import typer

from comitia_sdk.cli import record

app = typer.Typer(no_args_is_help=True, help="Runs of workflows and sessions, and their record.")

app.command("replay")(record.replay)
app.command("fork")(record.fork)
app.command("diff")(record.diff)
app.command("export")(record.export)
app.command("provenance")(record.provenance)
