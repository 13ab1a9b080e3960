"""`comitia run replay | fork | diff | export`: the record of runs. A session is a run and shares its id."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.difference import show_difference
from comitia_sdk.cli.drafts import draft
from comitia_sdk.cli.failure import EXIT_REFUSED
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, show_json, show_one
from comitia_sdk.cli.pairs import pairs
from comitia_sdk.cli.reading import read_dollars, read_mapping, read_text
from comitia_sdk.cli.replay import show_replay

if TYPE_CHECKING:
    from comitia.orchestrator.v1.record_service_pb2 import AgentChange
    from comitia.orchestrator.v1.run_pb2 import Run

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


def fork(
    run_id: RunId,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="PLACE",
            help="Step to make anew, such as `rounds/2/Athena`, or number of the last fact to take over. Default: from "
            "the beginning.",
            show_default=False,
        ),
    ] = "",
    topic: Annotated[
        str, typer.Option(metavar="TEXT", help="What the agents of a session are asked instead.", show_default=False)
    ] = "",
    given: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="What a run of a workflow is given instead, YAML or JSON.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Model for every agent.", show_default=False)] = "",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent", metavar="NAME=VERSION", help="Another version of an agent; repeat.", show_default=False
        ),
    ] = None,
    agent_model: Annotated[
        list[str] | None,
        typer.Option(
            "--agent-model", metavar="NAME=MODEL", help="Another model for an agent; repeat.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="NAME=FILE",
            help="Other instructions for an agent, a text file; repeat.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME@VERSION", help="Bundle of rules that judges its models; acts on nothing.", show_default=False
        ),
    ] = "",
    real_effects: Annotated[
        bool,
        typer.Option(
            "--real-effects", help="Call tools, workers and sub-runs; else they are answered from the record."
        ),
    ] = False,
    max_cost: Annotated[
        str, typer.Option(metavar="DOLLARS", help="Hard limit. Default: that of the other run.", show_default=False)
    ] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Starts a run that shares its beginning with another one, and goes on with something changed.

    What was answered until then is not asked again, and the other run stays as it is.

    Example:  comitia run fork run_01j… --at rounds/2/Athena --topic "Rivers or rails?"

    Example:  comitia run fork run_01j… --at rounds/2/Athena --prompt Athena=terse.txt --agent-model Apollo=stub
    """
    changes = _changes(versions=agent or (), models=agent_model or (), prompts=prompt or ())
    place: dict[str, Any] = {"at_sequence": int(at)} if at.isascii() and at.isdigit() else {"path": at}
    with client() as mesh:
        run = mesh.records.fork(
            run_id,
            **place,
            topic=topic,
            input=None if given is None else read_mapping(given),
            model=model,
            agents=changes,
            policy=policy,
            real_effects=real_effects,
            max_cost_nano_usd=read_dollars(max_cost) if max_cost else 0,
        )
    show_one(output, run, _lines_of(run))
    if output is Form.TABLE:
        typer.echo(f"\ncompare them with `comitia run diff {run_id} {run.run_id}` when it has ended")


def diff(
    run_id: RunId,
    other_run_id: Annotated[str, typer.Argument(metavar="OTHER", help="Id of the run to compare it with.")],
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Compare texts by meaning, too; asks the embedder, which may cost.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Compares two runs step by step: what they said, what it cost, which rules spoke, and how long it took.

    Exits with 1 when they differ, as diff does.

    Example:  comitia run diff run_01j… run_01k… --meaning
    """
    with client() as mesh:
        found = mesh.records.diff(run_id, other_run_id, by_meaning=meaning)
    if output is Form.JSON:
        show_json(as_json(found))
    else:
        show_difference(found)
    if found.steps or found.pins:
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


def provenance(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run or session that has ended, or a file that `--out` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it to this file, to be kept beside the code.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check it here, without the mesh. Exits with 1 when it does not hold.")
    ] = False,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="FILE",
            help="Key set (JWKS) that you trust: your own copy of keys/audit_jwks.json of the mesh.",
            show_default=False,
        ),
    ] = None,
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run-file",
            metavar="FILE",
            help="Hold it against every fact of what `comitia run export` wrote.",
            show_default=False,
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows the signed provenance of a run: what it pinned, how it ended, what it cost, from which commit.

    With the keys that come along, `--verify` says that nothing was changed on the way; with `--keys` also who signed.

    Example:  comitia run provenance run_01j… --verify --keys audit_jwks.json
    """
    from comitia_sdk.cli import provenance as one

    found = one.read(run)
    if out is not None:
        one.write(found, out)
    statement = one.checked(found, keys=keys, run_file=run_file) if verify or keys or run_file else one.claimed(found)
    if output is Form.JSON:
        show_json({**as_json(found), "statement": one.as_object(statement)})
    else:
        one.show(statement, verified=verify or bool(keys or run_file), trusted=keys is not None)


def _changes(*, versions: Sequence[str], models: Sequence[str], prompts: Sequence[str]) -> "Sequence[AgentChange]":
    """Gathers what is to be otherwise with each agent. Raises: CommandFailed."""
    from comitia.orchestrator.v1.record_service_pb2 import AgentChange

    changes: dict[str, AgentChange] = {}
    for name, version in pairs("--agent", versions).items():
        changes.setdefault(name, AgentChange(name=name)).version = version
    for name, model in pairs("--agent-model", models).items():
        changes.setdefault(name, AgentChange(name=name)).model = model
    for name, file in pairs("--prompt", prompts).items():
        changes.setdefault(name, AgentChange(name=name)).instructions = read_text(Path(file))
    return list(changes.values())


def _lines_of(run: "Run") -> Sequence[tuple[str, str]]:
    from comitia.orchestrator.v1 import run_pb2

    place = f" after fact {run.forked_at_sequence}" if run.forked_at_sequence else ", from the beginning"
    return [
        ("run", run.run_id),
        ("forked from", f"{run.forked_from_run_id}{place}"),
        ("policy", run.policy),
        ("workflow", run.workflow),
        ("state", run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()),
        ("limit", dollars(run.max_cost_nano_usd)),
    ]
