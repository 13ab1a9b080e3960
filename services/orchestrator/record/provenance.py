"""Gathers from a run's facts what is signed of it once it has ended."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from comitia_sdk.audit.canonical import canonical_json, timestamp_text
from comitia_sdk.record.manifest import ManifestMaker
from comitia_sdk.record.provenance import Statement, manifest_sha256
from services.orchestrator.programs.run_view import TERMINAL_STATES, RunProjection

#: Label of a run that names the commit it was started from.
GIT_COMMIT: Final = "git.commit"


class ProvenanceMaker:
    """Takes the facts of a run in order, with their commitments."""

    def __init__(self) -> None:
        self._manifest = ManifestMaker()
        self._seen = RunProjection()
        self._sequence = 0
        self._workflow = ""
        self._metadata: dict[str, str] = {}

    def take(self, entry: journal_pb2.JournalEntry, *, commitment: bytes) -> None:
        """Takes the next fact. Raises: DecodeError: it holds an answer that is none."""
        self._sequence += 1
        self._manifest.take_commitment(commitment)
        self._manifest.take(entry)
        self._seen.take(entry, self._sequence)
        if entry.HasField("run_started"):
            started = entry.run_started
            self._metadata = dict(started.run.metadata if started.HasField("run") else started.session.metadata)
            if started.HasField("workflow"):
                self._workflow = f"{started.workflow.name}@{started.workflow.version}"

    @property
    def ended(self) -> bool:
        """True once it has taken the fact that ended the run."""
        return self._seen.state in TERMINAL_STATES

    @property
    def manifest(self) -> str:
        """What the run pinned and met, as it is handed out."""
        return canonical_json(self._manifest.manifest()).decode()

    def statement(self, *, tenant_id: str, run_id: str) -> Statement:
        """Gives what is to be signed of a run that has ended."""
        run = self._seen.run
        return Statement(
            tenant_id=tenant_id,
            run_id=run_id,
            manifest_sha256=manifest_sha256(self.manifest),
            commitments_sha256=self._manifest.commitments_sha256,
            facts=str(self._sequence),
            outcome=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_"),
            reason=run.state_reason,
            cost_nano_usd=str(run.cost_nano_usd),
            start_time=_text(run.start_time),
            end_time=_text(run.end_time),
            program=run.program,
            workflow=self._workflow,
            forked_from_run_id=run.forked_from_run_id,
            git_commit=self._metadata.get(GIT_COMMIT, ""),
        )


def _text(at: Timestamp) -> str:
    return timestamp_text(at.seconds, at.nanos)
