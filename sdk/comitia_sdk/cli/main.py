"""`comitia`: starts a mesh, runs agents on it, and shows what they did and cost.

Exit codes: 0 done · 1 refused or failed · 2 used wrongly · 3 the mesh does not answer · 4 the stub answered a demo.
Heavy imports stand inside the commands, so that `--help` stays fast.
"""

import atexit
import gc
import sys
from typing import Annotated, Final

import typer

from comitia_sdk.cli import (
    access,
    agents,
    audit,
    backup,
    budget_alerts,
    certificate,
    costs,
    demo,
    doctor,
    estimates,
    forecasts,
    identity,
    kek,
    keys,
    law,
    login,
    mesh,
    model,
    models,
    money,
    people,
    prices,
    replay,
    runs,
    sessions,
    tenants,
    tools,
    worker,
    workflows,
)
from comitia_sdk.cli.failure import report_failure

_INTERRUPTED: Final = 130
#: New objects before the youngest are looked through for garbage. A command makes few that do not live as long as it.
_OBJECTS_BEFORE_A_LOOK: Final = 20_000

app: Final = typer.Typer(
    name="comitia",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with  [bold]comitia demo[/bold].  "
    "Another mesh than the one on this machine is named by COMITIA_URL and COMITIA_API_KEY.  "
    "Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 the mesh does not answer, 4 the stub answered a demo.",
)

MESH: Final = "The mesh on this machine"
WORK: Final = "Agents at work: what they do, by which rules, at what price"
WHO: Final = "Who may do what, and proof of what was done"
INSTALLATION: Final = "For operators of the installation"

app.command("up", rich_help_panel=MESH)(mesh.up)
app.command("down", rich_help_panel=MESH)(mesh.down)
app.command("status", rich_help_panel=MESH)(mesh.status)
app.command("logs", rich_help_panel=MESH)(mesh.logs)
app.command("demo", rich_help_panel=MESH)(demo.demo)
app.command("doctor", rich_help_panel=MESH)(doctor.doctor)
app.command("backup", rich_help_panel=MESH)(backup.backup)
app.command("restore", rich_help_panel=MESH)(backup.restore)
app.command("check", rich_help_panel=MESH)(backup.check)
app.add_typer(agents.app, name="agent", rich_help_panel=WORK)
app.add_typer(sessions.app, name="session", rich_help_panel=WORK)
app.add_typer(workflows.app, name="workflow", rich_help_panel=WORK)
app.add_typer(runs.app, name="run", rich_help_panel=WORK)
app.command("estimate", rich_help_panel=WORK)(estimates.estimate)
app.command("replay", rich_help_panel=WORK)(replay.replay)
app.add_typer(worker.app, name="worker", rich_help_panel=WORK)
app.add_typer(tools.app, name="tool", rich_help_panel=WORK)
app.add_typer(law.app, name="policy", rich_help_panel=WORK)
app.command("violations", rich_help_panel=WORK)(law.violations)
app.command("models", rich_help_panel=WORK)(models.models)
app.add_typer(model.app, name="model", rich_help_panel=WORK)
costs.app.command()(forecasts.watch)
costs.app.command()(forecasts.alerts)
costs.app.command()(forecasts.forecast)
costs.app.command()(forecasts.recommend)
money.app.command()(budget_alerts.alerts)
money.app.command("on-spike")(forecasts.on_spike)
app.add_typer(costs.app, name="costs", rich_help_panel=WORK)
app.add_typer(money.app, name="budget", rich_help_panel=WORK)
app.add_typer(prices.app, name="prices", rich_help_panel=WORK)
app.command("login", rich_help_panel=WHO)(login.login)
app.command("logout", rich_help_panel=WHO)(login.logout)
app.command("whoami", rich_help_panel=WHO)(identity.whoami)
app.command("token", rich_help_panel=WHO)(identity.token)
app.add_typer(people.users, name="user", rich_help_panel=WHO)
app.add_typer(people.issuers, name="issuer", rich_help_panel=WHO)
app.add_typer(keys.keys, name="key", rich_help_panel=WHO)
app.add_typer(keys.service_accounts, name="service-account", rich_help_panel=WHO)
app.add_typer(access.app, name="access", rich_help_panel=WHO)
app.add_typer(audit.app, name="audit", rich_help_panel=WHO)
app.add_typer(tenants.app, name="tenant", rich_help_panel=INSTALLATION)
app.add_typer(keys.signing_keys, name="signing-key", rich_help_panel=INSTALLATION)
app.add_typer(certificate.app, name="certificate", rich_help_panel=INSTALLATION)
app.add_typer(kek.app, name="kek", rich_help_panel=INSTALLATION)


class _Debug:
    on = False


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"comitia {version('comitia')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack trace of a failure.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Runs multi-agent LLM systems: under law, on a budget, on the record."""
    _Debug.on = debug


def run() -> None:
    """Runs the command line. Shows one sentence for a failure, never a stack trace without `--debug`."""
    gc.set_threshold(_OBJECTS_BEFORE_A_LOOK)
    # The end of the process frees everything at once, and need not look at each object before that.
    atexit.register(gc.freeze)
    try:
        code = app(prog_name="comitia", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as failure:
        if _Debug.on:
            raise
        code = report_failure(failure)
    sys.exit(code if isinstance(code, int) else 0)
