"""As a user: act, be refused, see both in the audit trail, take it home, check it there, and notice a change."""

import asyncio
from pathlib import Path

import pytest

from comitia.common.v1.audit_pb2 import AUDIT_OUTCOME_REFUSED, AUDIT_OUTCOME_SUCCEEDED
from comitia.gateway.v1.audit_service_pb2 import ChainedAuditEntry
from comitia_sdk.aio import AsyncClient
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.audit.verify import verify_export
from comitia_sdk.errors import PermissionDenied
from comitia_sdk.nouns.audit import check_proof
from services.launcher.layout import DataDir
from tests.e2e.conftest import Tenant, until
from tests.support.mesh import RunningMesh


async def entry_of(client: AsyncClient, action: str, outcome: int) -> ChainedAuditEntry:
    """Waits for an entry, which arrives within a second or two."""

    async def found() -> ChainedAuditEntry | None:
        async for one in client.audit.list(action=action):
            if one.entry.outcome == outcome:
                return one
        return None

    return await until(found)


async def test_what_was_done_and_what_was_refused_is_seen_and_proven_offline(
    mesh: RunningMesh, tenant: Tenant, tmp_path: Path
) -> None:
    made = await tenant.client.identity.create_key("reader", roles=["tenant_user"])
    async with AsyncClient(mesh.url, api_key=made.secret) as reader:
        with pytest.raises(PermissionDenied, match=r"api_keys\.write"):
            await reader.identity.create_key("more", roles=["admin"])
    done = await entry_of(tenant.client, "api_keys.write", AUDIT_OUTCOME_SUCCEEDED)
    refused = await entry_of(tenant.client, "api_keys.write", AUDIT_OUTCOME_REFUSED)
    assert done.entry.target == made.api_key.api_key_id
    assert (refused.entry.actor, refused.entry.reason) == (made.api_key.api_key_id, "PERMISSION_MISSING")

    trail = tmp_path / "trail.jsonl"
    with trail.open("wb") as file:
        count = await tenant.client.audit.save(file)
    keys = AuditKeys.read(DataDir(mesh.options.data_dir).audit_jwks.read_bytes())  # pyright: ignore[reportArgumentType]
    with trail.open("rb") as file:
        report = await asyncio.to_thread(verify_export, file, keys=keys)
    assert (report.whole, report.entries, report.keys_trusted) == (True, count, True)
    assert check_proof(await tenant.client.audit.prove(refused.index), index=refused.index, keys=keys) is None

    trail.write_bytes(trail.read_bytes().replace(b"PERMISSION_MISSING", b"PERMISSION_GRANTED"))
    with trail.open("rb") as file:
        report = await asyncio.to_thread(verify_export, file, keys=keys)
    assert refused.index in [fault.index for fault in report.faults]


async def test_the_trail_of_a_mesh_is_whole_and_all_seven_feed_it(client: AsyncClient) -> None:
    async def whole() -> bool:
        return (await client.audit.status()).whole

    await until(whole)
    assert list((await client.audit.status()).unreachable_services) == []


async def test_another_tenants_trail_is_its_own(tenant: Tenant, stranger: AsyncClient) -> None:
    key = await tenant.client.identity.create_key("mine")
    mine = await entry_of(tenant.client, "api_keys.write", AUDIT_OUTCOME_SUCCEEDED)
    assert mine.entry.target == key.api_key.api_key_id
    seen = [one.entry.target async for one in stranger.audit.list()]
    assert key.api_key.api_key_id not in seen
