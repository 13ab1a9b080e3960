"""What `comitia run provenance` does with the signed provenance of a run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import Parse, ParseError

from comitia.orchestrator.v1.record_service_pb2 import GetRunProvenanceResponse
from comitia_sdk.audit.head import AuditKeys, HeadMalformed
from comitia_sdk.cli.connect import client
from comitia_sdk.cli.drafts import draft
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import as_json, dollars, plain, show_lines
from comitia_sdk.record.provenance import (
    ProvenanceWrong,
    Statement,
    check_against_file,
    read_statement,
    verify_provenance,
)
from comitia_sdk.record.run_file import RunFileBroken, RunFileReader, RunFileUnknown

#: A manifest names at most some thousand agents and tools.
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024


def read(run: str) -> GetRunProvenanceResponse:
    """Asks the mesh, or reads a file that `write` wrote."""
    if run.startswith("run_"):
        with client() as mesh:
            return mesh.records.provenance(run)
    path = Path(run)
    try:
        return Parse(_bytes(path), GetRunProvenanceResponse())
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise CommandFailed(f"{path} is no provenance; `--out` writes them", code=EXIT_USAGE) from error


def write(found: GetRunProvenanceResponse, path: Path) -> None:
    """Writes it as the REST face does."""
    with draft(path) as (part, _):
        part.write(json.dumps(as_json(found), indent=2).encode() + b"\n")


def claimed(found: GetRunProvenanceResponse) -> Statement:
    """Gives what it says, unchecked."""
    try:
        return read_statement(found.jws)
    except ProvenanceWrong as error:
        raise CommandFailed(f"the provenance cannot be read: {error}") from error


def checked(found: GetRunProvenanceResponse, *, keys: Path | None, run_file: Path | None) -> Statement:
    """Gives what it says once it holds: signature, manifest, and the facts of a file where there is one."""
    try:
        trusted = AuditKeys.read(found.key_set if keys is None else _bytes(keys))
    except HeadMalformed as error:
        raise CommandFailed(f"{keys or 'what came along'} is no key set: {error}", code=EXIT_USAGE) from error
    try:
        statement = verify_provenance(found.jws, keys=trusted, manifest=found.manifest)
        if run_file is not None:
            _check_file(statement, run_file)
    except ProvenanceWrong as error:
        raise CommandFailed(f"the provenance does not hold: {error}") from error
    return statement


def as_object(statement: Statement) -> dict[str, Any]:
    """Gives the statement as it stands in its JSON."""
    return {name: value for name, value in asdict(statement).items() if value}


def show(statement: Statement, *, verified: bool, trusted: bool) -> None:
    """Shows it to people."""
    signature = "not checked; --verify does"
    if verified:
        signature = "holds, by a key that you trust" if trusted else "holds, by a key that came along with it"
    show_lines(
        [
            ("run", statement.run_id),
            ("tenant", statement.tenant_id),
            ("workflow", plain(statement.workflow)),
            ("program", plain(statement.program)),
            ("outcome", f"{statement.outcome} {plain(statement.reason)}".strip()),
            ("cost", dollars(int(statement.cost_nano_usd))),
            ("started", statement.start_time),
            ("ended", statement.end_time),
            ("forked from", statement.forked_from_run_id),
            ("git commit", plain(statement.git_commit)),
            ("manifest", statement.manifest_sha256),
            ("journal", f"{statement.commitments_sha256} over {statement.facts} facts"),
            ("signature", signature),
        ]
    )


def _check_file(statement: Statement, path: Path) -> None:
    try:
        with path.open("rb") as opened:
            reader = RunFileReader(opened)
            for _ in reader.commits() if reader.structure_only else reader.facts():
                pass
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    except (RunFileBroken, RunFileUnknown) as error:
        raise CommandFailed(f"{path}: {error}") from error
    check_against_file(statement, run_id=reader.run_id, manifest=reader.manifest)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise CommandFailed(f"{path} is larger than {_MAX_FILE_BYTES} bytes", code=EXIT_USAGE)
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
