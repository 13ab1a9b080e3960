"""As a user: run, keep the signed provenance, and check it without the mesh with the key set that was kept."""

from pathlib import Path

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.errors import FailedPrecondition, NotFound
from comitia_sdk.record.provenance import ProvenanceWrong, check_against_file, verify_provenance
from comitia_sdk.record.run_file import RunFileReader
from services.launcher.layout import DataDir
from tests.e2e.conftest import Tenant
from tests.support.mesh import RunningMesh

COMMIT = "0123456789abcdef0123456789abcdef01234567"


async def test_what_a_session_was_made_of_is_signed_and_checked_offline_against_its_file(
    mesh: RunningMesh, tenant: Tenant, tmp_path: Path
) -> None:
    await tenant.cast("Athena")
    started = await tenant.start("Athena", max_rounds=1, metadata={"git.commit": COMMIT})
    ended = await tenant.ended(started.session_id)

    found = await tenant.client.records.provenance(started.session_id)
    keys = AuditKeys.read(DataDir(mesh.data_dir).audit_jwks.read_bytes())
    said = verify_provenance(found.jws, keys=keys, manifest=found.manifest)
    assert (said.run_id, said.outcome, said.git_commit) == (started.session_id, "SUCCEEDED", COMMIT)
    assert said.tenant_id == (await tenant.client.tenants.own()).tenant_id
    assert said.cost_nano_usd == str(ended.cost_nano_usd)
    assert found == await tenant.client.records.provenance(started.session_id)
    with pytest.raises(ProvenanceWrong):
        verify_provenance(found.jws, keys=keys, manifest=found.manifest.replace("Athena", "Apollo"))

    file = tmp_path / "run.jsonl"
    with file.open("wb") as written:
        await tenant.client.records.save(started.session_id, written)
    with file.open("rb") as opened:
        reader = RunFileReader(opened)
        facts = sum(1 for _ in reader.facts())
    assert said.facts == str(facts)
    check_against_file(said, run_id=reader.run_id, manifest=reader.manifest)


async def test_a_run_in_progress_has_no_provenance_and_one_of_another_tenant_does_not_exist(
    tenant: Tenant, stranger: AsyncClient
) -> None:
    await tenant.cast("Athena")
    started = await tenant.start("Athena", manual_advance=True)
    await tenant.until_state(started.session_id, session_pb2.SESSION_STATE_WAITING)
    with pytest.raises(FailedPrecondition) as early:
        await tenant.client.records.provenance(started.session_id)
    assert early.value.reason == "RUN_NOT_ENDED"
    await tenant.client.sessions.cancel(started.session_id)
    await tenant.ended(started.session_id)
    assert (await tenant.client.records.provenance(started.session_id)).jws
    with pytest.raises(NotFound):
        await stranger.records.provenance(started.session_id)
