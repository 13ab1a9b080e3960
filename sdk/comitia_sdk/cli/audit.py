"""`comitia audit`: who did what, with proof."""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.drafts import draft, progress_line
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, plain, show_json, show_lines, show_one, show_rows

if TYPE_CHECKING:
    from comitia.gateway.v1.audit_service_pb2 import (
        AuditHead,
        ChainedAuditEntry,
        GetAuditStatusResponse,
        ProveAuditConsistencyResponse,
        ProveAuditEntryResponse,
    )
    from comitia_sdk.audit.head import AuditKeys, Head
    from comitia_sdk.audit.verify import Report
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Who did what, with proof.")

#: Exports and key files of installations are far below this.
_MAX_SIDE_FILE: Final = 64 * 1024 * 1024
_SHOWN_FAULTS: Final = 20
#: Longest wait for a signed head, and the pause between two looks. Heads are signed every minute.
_WAIT_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 1.0

KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help="Key set (JWKS) that you trust: your own copy of keys/audit_jwks.json of the mesh.",
        show_default=False,
    ),
]


@app.command("list")
def list_(
    actor: Annotated[str, typer.Option(metavar="ID", help="Only of this actor: `key_…`, `user_…`, `svc_…`.")] = "",
    action: Annotated[str, typer.Option(metavar="NAME", help="Only of this action, such as api_keys.write.")] = "",
    target: Annotated[str, typer.Option(metavar="ID", help="Only about this target.")] = "",
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only from then on, UTC.", show_default=False),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, metavar="N", help="At most so many.")] = 50,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists what was done and what was refused, newest first.

    Example:  comitia audit list --action api_keys.write --since 2026-03-01
    """
    from datetime import UTC
    from itertools import islice

    after = None if since is None else since.replace(tzinfo=UTC)
    with client() as mesh:
        entries = mesh.audit.list(actor=actor, action=action, target=target, after_time=after, page_size=min(most, 500))
        found = list(islice(entries, most))
    rows = [tuple(value for _, value in _lines(one)) for one in found]
    columns = ("index", "when", "actor", "action", "target", "outcome", "reason", "address")
    show_rows(output, found, columns, rows, empty="no entries")


@app.command()
def status(output: FormOption = Form.TABLE) -> None:
    """Says whether the trail is whole. Exits with 1 when it is not.

    Example:  comitia audit status
    """
    with client() as mesh:
        found = mesh.audit.status()
    lines = [
        ("whole", "yes" if found.whole else "no"),
        ("entries", str(found.size)),
        ("signed", f"{found.head.size} entries on {moment(found.head.sign_time)}" if found.head.size else "none yet"),
        ("rewritten", found.contradiction),
        ("not reached", ", ".join(found.unreachable_services)),
        ("acknowledged", f"{found.acknowledged_gaps} gaps" if found.acknowledged_gaps else ""),
        *(_gap_line(gap) for gap in found.gaps),
    ]
    show_one(output, found, lines)
    if not found.whole:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def acknowledge(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Service; see `comitia audit status`.")],
    stream: Annotated[int, typer.Argument(metavar="STREAM", min=0, help="Which of its streams.")],
    position: Annotated[int, typer.Argument(metavar="POSITION", min=1, help="Where it begins.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What you found out; it stays on record.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Says that you have looked into a gap: it is no alarm any more, and stays in the status. For operators.

    Example:  comitia audit acknowledge cost 3 8 --reason "restored from the backup of 3 March"
    """
    with client() as mesh:
        gap = mesh.audit.acknowledge(service, stream, position, reason=reason)
    show_one(output, gap, [_gap_line(gap)])


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; `-` for standard output.")],
) -> None:
    """Writes the whole trail with its signed heads as JSON lines, for `comitia audit verify`.

    Example:  comitia audit export trail.jsonl
    """
    if str(file) == "-":
        with client() as mesh:
            mesh.audit.save(sys.stdout.buffer)
        return
    with draft(file) as (part, progress), client() as mesh:
        entries = mesh.audit.save(part, told=lambda lines: progress(f"{lines:,} lines"))
    typer.echo(f"{entries:,} entries in {file}; check them with `comitia audit verify {file}`")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `comitia audit export` wrote.")],
    keys: KeysOption = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            "--heads",
            metavar="FILE",
            help="Heads that you kept: an earlier export, or a file of the mesh's head store; repeat for several.",
            show_default=False,
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Checks an export, offline: every hash, the chain, the tree and the signatures. Exits with 1 when one is wrong.

    Example:  comitia audit verify trail.jsonl --keys audit_jwks.json
    """
    from comitia_sdk.audit.verify import verify_export

    trusted = None if keys is None else _read_keys(keys)
    kept = [head for path in heads or () for head in _read_heads(path)]
    try:
        with file.open("rb") as opened, progress_line() as progress:
            report = verify_export(
                opened, keys=trusted, heads=kept, progress=lambda done, total: progress(f"{done * 100 // total} %")
            )
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    _show_report(report, output)
    if not report.whole:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def prove(
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="Which entry; see `comitia audit list`.")],
    keys: KeysOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait up to two minutes for a signed head that covers the entry.")
    ] = True,
    output: FormOption = Form.TABLE,
) -> None:
    """Fetches the proof that an entry is in the signed tree, and checks it here. Exits with 1 when it does not hold.

    Example:  comitia audit prove 42 --keys audit_jwks.json
    """
    from comitia_sdk.nouns.audit import check_proof

    trusted = None if keys is None else _read_keys(keys)
    with client() as mesh:
        proof = _signed_proof(mesh, index) if wait else mesh.audit.prove(index)
    wrong = check_proof(proof, index=index, keys=trusted)
    if output is Form.JSON:
        show_json(as_json(proof))
    else:
        show_lines(
            [
                *_lines(proof.entry),
                ("tenant", proof.head.tenant_id),
                ("hash", proof.entry.leaf_hash.hex()),
                ("signed head", _head_text(proof.head)),
                ("root", proof.head.root_hash.hex()),
                ("path", f"{len(proof.path)} hashes"),
            ]
        )
    if wrong is not None:
        raise CommandFailed(f"the proof does not hold: {wrong}")
    _say_verdict(output, trusted, verified=f"entry {index} is in the signed tree", said=f"entry {index}")


@app.command()
def compare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Heads that you kept: an earlier export, or a file of the head store."),
    ],
    keys: KeysOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows that the trail only grew since the newest head in each file, checked here. Exits with 1 when it did not.

    Example:  comitia audit compare trail-of-march.jsonl --keys audit_jwks.json
    """
    from comitia_sdk.nouns.audit import check_consistency

    trusted = None if keys is None else _read_keys(keys)
    kept = [(file, max(_read_heads(file), key=lambda head: head.size)) for file in files]
    with client() as mesh:
        proofs = [_consistency(mesh, file, head) for file, head in kept]
    if output is Form.JSON:
        show_json([as_json(proof) for proof in proofs])
    for (file, head), proof in zip(kept, proofs, strict=True):
        wrong = check_consistency(proof, kept=head, keys=trusted)
        if wrong is not None:
            raise CommandFailed(f"the trail did not only grow since the head in {file}: {wrong}")
        if output is Form.TABLE:
            show_lines([("kept", f"{_head_text(proof.first)}, in {file}"), ("now", _head_text(proof.second))])
    _say_verdict(output, trusted, verified="the trail only grew since then", said="that the trail only grew")


def _signed_proof(mesh: "Client", index: int) -> "ProveAuditEntryResponse":
    """Fetches a proof; while no signed head covers the entry, waits for the next one."""
    from comitia_sdk.errors import FailedPrecondition

    until = time.monotonic() + _WAIT_SECONDS
    told = False
    while True:
        try:
            return mesh.audit.prove(index)
        except FailedPrecondition as error:
            if error.reason != "NOT_YET_SIGNED" or time.monotonic() >= until:
                raise
        if not told:
            typer.echo(f"waiting for a signed head that covers entry {index}; heads are signed every minute", err=True)
            told = True
        time.sleep(_LOOK_SECONDS)


def _consistency(mesh: "Client", file: Path, kept: "Head") -> "ProveAuditConsistencyResponse":
    from comitia_sdk.errors import NotFound

    try:
        return mesh.audit.prove_consistency(kept.size)
    except NotFound as error:
        raise CommandFailed(
            f"the mesh shows no head over {kept.size:,} entries, of which {file} has one: the trail was cut, or you "
            f"ask another tenant; look closer with `comitia audit export` and `comitia audit verify --heads {file}`"
        ) from error


def _head_text(head: "AuditHead") -> str:
    return f"{head.size:,} entries, {moment(head.sign_time)}, by {head.key_id}"


def _say_verdict(output: Form, trusted: "AuditKeys | None", *, verified: str, said: str) -> None:
    """Says what was shown. Without keys of the caller's own that is little, and programs have to hear it too."""
    if trusted is None:
        sentence = f"{said}: consistent with what the mesh said; not verified, name the keys that you trust with --keys"
        typer.echo(sentence, err=output is Form.JSON)
    elif output is Form.TABLE:
        typer.echo(verified)


def _gap_line(gap: "GetAuditStatusResponse.Gap") -> tuple[str, str]:
    place = f"{gap.service}, stream {gap.stream}, from {gap.position} (noticed {moment(gap.notice_time)})"
    if not gap.HasField("acknowledgement"):
        return "missing", place
    given = gap.acknowledgement
    return "looked into", f"{place} by {given.actor} on {moment(given.acknowledge_time)}: {given.reason}"


def _show_report(report: "Report", output: Form) -> None:
    from dataclasses import asdict

    if output is Form.JSON:
        show_json({**asdict(report), "whole": report.whole})
        return
    lines = [
        ("tenant", report.tenant_id),
        ("entries", f"{report.entries:,}"),
        ("signed heads", f"{report.heads:,}, over {report.covered:,} entries"),
        ("keys", "yours" if report.keys_trusted else "those of the export itself"),
    ]
    show_lines(lines)
    for fault in report.faults[:_SHOWN_FAULTS]:
        typer.secho(f"line {fault.line}, entry {fault.index}: {plain(fault.sentence)}", fg=typer.colors.RED)
    if report.fault_count > _SHOWN_FAULTS:
        typer.echo(f"and {report.fault_count - _SHOWN_FAULTS:,} more")
    if not report.whole:
        typer.echo("the export is NOT whole")
    elif report.keys_trusted:
        typer.echo("the export is whole")
    else:
        typer.echo("the export agrees with itself; name keys that you trust with --keys to know who signed it")


def _read_keys(path: Path) -> "AuditKeys":
    from comitia_sdk.audit.head import AuditKeys, HeadMalformed

    try:
        return AuditKeys.read(_read(path))
    except HeadMalformed as error:
        raise CommandFailed(f"{path} is no key set: {error}", code=EXIT_USAGE) from error


def _read_heads(path: Path) -> "list[Head]":
    from comitia_sdk.audit.head import HeadMalformed
    from comitia_sdk.audit.lines import HEAD_START, read_head

    found: list[Head] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.startswith(HEAD_START):
                    try:
                        found.append(read_head(line))
                    except HeadMalformed as error:
                        raise CommandFailed(f"{path}:{number}: {error}", code=EXIT_USAGE) from error
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    if not found:
        raise CommandFailed(f"{path} holds no signed head", code=EXIT_USAGE)
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIDE_FILE)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error


def _lines(one: "ChainedAuditEntry") -> list[tuple[str, str]]:
    from comitia.common.v1.audit_pb2 import AuditOutcome
    from comitia_sdk.enums import short_name

    entry = one.entry
    return [
        ("index", str(one.index)),
        ("when", moment(entry.record_time)),
        ("actor", f"{entry.actor} by {entry.peer}" if entry.peer else entry.actor),
        ("action", entry.action),
        ("target", entry.target),
        ("outcome", short_name(AuditOutcome, entry.outcome)),
        ("reason", entry.reason),
        ("address", entry.source_address),
    ]
