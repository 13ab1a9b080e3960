"""The signed provenance of a run: what it says, and over what nothing is signed."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comitia.orchestrator.v1 import journal_pb2
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.record.provenance import Statement, check_against_file, signed, verify_provenance
from comitia_sdk.record.run_file import RunFileReader
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.core.identity import Caller, Principal, Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RecordBroken, RecordDestroyed, RunNotEnded, RunNotFound
from services.orchestrator.record.rows import RecordedRow, RowContent
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.prove_run import Provenance, ProveRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.run_access import RunAccess
from tests.support.journals import MemoryRecords
from tests.support.memory_access_gate import MemoryAccessGate
from tests.support.sessions import RUN_ID, World, a_start, play

ADA = Caller(principal=Principal(tenant=TENANT, subject="key_ada", roles=frozenset({Role.AUDITOR})))
KEY = Ed25519PrivateKey.generate()
KEYS = AuditKeys({"audit-1": KEY.public_key().public_bytes_raw()})
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Signer:
    """Implements `ProvenanceSigner` with a key of its own."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.fault: MeshError | None = None

    async def sign(self, caller: Caller, statement: bytes) -> tuple[str, str]:
        """See `ProvenanceSigner.sign`."""
        self.asked.append(statement)
        if self.fault is not None:
            raise self.fault
        return signed(statement, key_id="audit-1", sign=KEY.sign), KEYS.to_json().decode()


class Desk:
    """The use case on journals in memory."""

    def __init__(self) -> None:
        self.records, self.signer = MemoryRecords(), Signer()
        self.runs = RecordedRuns(records=self.records, access=RunAccess(MemoryAccessGate()))
        self.prove = ProveRun(runs=self.runs, signer=self.signer)

    async def proven(self) -> tuple[Provenance, Statement]:
        """Gives the provenance of the run, verified."""
        found = await self.prove(ADA, RUN_ID)
        return found, verify_provenance(found.jws, keys=KEYS, manifest=found.manifest)


def a_journal(**labels: str) -> list[journal_pb2.JournalEntry]:
    started = a_start(max_rounds=1)
    started.session.metadata.update(labels)
    return play(started, World())


async def test_the_statement_says_what_the_run_was_and_how_it_ended() -> None:
    desk, journal = Desk(), a_journal(**{"git.commit": COMMIT})
    desk.records.add(TENANT, RUN_ID, journal)
    found, said = await desk.proven()
    assert (said.tenant_id, said.run_id) == (from_uuid("tenant", TENANT), RUN_ID)
    assert (said.outcome, said.reason, said.program, said.facts) == ("SUCCEEDED", "", "dialogue", str(len(journal)))
    assert said.git_commit == COMMIT
    turns = [entry.step_completed.turn for entry in journal if entry.WhichOneof("fact") == "step_completed"]
    assert int(said.cost_nano_usd) == sum(turn.cost.cost_nano_usd for turn in turns) > 0
    assert '"name":"Athena"' in found.manifest


async def test_the_same_run_always_gives_the_same_signed_statement() -> None:
    desk = Desk()
    desk.records.add(TENANT, RUN_ID, a_journal())
    first, _ = await desk.proven()
    again, _ = await desk.proven()
    assert first == again


async def test_other_salts_are_another_journal() -> None:
    desk = Desk()
    desk.records.add(TENANT, RUN_ID, a_journal())
    _, first = await desk.proven()
    desk.records.add(TENANT, RUN_ID, a_journal())
    _, other = await desk.proven()
    assert first.commitments_sha256 != other.commitments_sha256


async def test_an_exported_file_of_the_run_holds_what_was_signed() -> None:
    desk = Desk()
    desk.records.add(TENANT, RUN_ID, a_journal())
    _, statement = await desk.proven()
    file = BytesIO(b"".join([line async for line in ExportRun(runs=desk.runs)(ADA, RUN_ID)]))
    reader = RunFileReader(file)
    assert len(list(reader.facts())) == int(statement.facts)
    check_against_file(statement, run_id=reader.run_id, manifest=reader.manifest)


async def test_a_run_in_progress_has_no_provenance_yet() -> None:
    desk = Desk()
    desk.records.add(TENANT, RUN_ID, a_journal()[:-1])
    with pytest.raises(RunNotEnded):
        await desk.prove(ADA, RUN_ID)
    assert desk.signer.asked == []


def _changed(rows: list[RecordedRow]) -> None:
    content = rows[1].content
    assert content is not None
    fact = journal_pb2.JournalEntry.FromString(content.entries[0])
    fact.path += "x"
    rows[1] = replace(
        rows[1], content=RowContent(entries=[fact.SerializeToString(), *content.entries[1:]], salts=content.salts)
    )


def _lost_fact(rows: list[RecordedRow]) -> None:
    content = rows[1].content
    assert content is not None
    rows[1] = replace(rows[1], content=RowContent(entries=content.entries[:-1], salts=content.salts))


def _lost_commit(rows: list[RecordedRow]) -> None:
    del rows[1]


def _twice(rows: list[RecordedRow]) -> None:
    rows.insert(1, replace(rows[1], first_sequence=rows[1].first_sequence - 1))


@pytest.mark.parametrize("harm", [_changed, _lost_fact, _lost_commit, _twice])
async def test_nothing_is_signed_over_a_record_that_was_changed(harm: Callable[[list[RecordedRow]], None]) -> None:
    desk = Desk()
    harm(desk.records.add(TENANT, RUN_ID, a_journal()))
    with pytest.raises(RecordBroken):
        await desk.prove(ADA, RUN_ID)
    assert desk.signer.asked == []


async def test_what_nobody_can_read_any_more_is_not_signed() -> None:
    desk = Desk()
    rows = desk.records.add(TENANT, RUN_ID, a_journal())
    rows[:] = [replace(row, content=None) for row in rows]
    with pytest.raises(RecordDestroyed):
        await desk.prove(ADA, RUN_ID)


async def test_a_run_of_nobody_has_no_provenance_and_a_gateway_that_is_away_is_said() -> None:
    desk = Desk()
    with pytest.raises(RunNotFound):
        await desk.prove(ADA, RUN_ID)
    desk.records.add(TENANT, RUN_ID, a_journal())
    desk.signer.fault = Unavailable("gateway")
    with pytest.raises(Unavailable):
        await desk.prove(ADA, RUN_ID)
