"""Every control-plane mutation leaves exactly one audit entry: done, refused, and repeated."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Final
from uuid import uuid4

import grpc.aio
import pytest
from google.protobuf.message import Message

from comitia.guard_table import GUARDS
from comitia_sdk.sync import Client
from services.meshkit.core.ids import to_uuid
from tests.e2e.test_every_rpc import REQUESTS, World, credentials, provider, world
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected
from tests.support.public_rpcs import PUBLIC, Rpc

__all__ = ["provider", "world"]

#: Mutations that callers outside can ask for.
AUDITED: Final = [rpc for rpc in PUBLIC if rpc.guard.audit]
#: Reads of such reach that each is on record.
READS: Final = [rpc for rpc in PUBLIC if rpc.guard.audit_read]
#: Mutations that only services ask for, with the test that drives them.
INSIDE: Final = {"/comitia.cost.v1.BudgetService/CreateBudget": "tests/integration/cost/test_audit.py"}

SUCCEEDED, REFUSED = 1, 2


@pytest.fixture(scope="module")
def auditor(mesh: RunningMesh, world: World) -> Iterator[str]:
    """Gives the token of an auditor, who may change nothing."""
    key = world.client.identity.create_key("reads only", roles=["auditor"]).secret
    with Client(mesh.url, api_key=key) as client:
        yield client.identity.token()


def unique(rpc: Rpc, world: World) -> Message:
    """Makes a request that nobody makes twice by chance."""
    fields = dict(REQUESTS[rpc.name](world))
    if "request_id" in rpc.request_class.DESCRIPTOR.fields_by_name:
        fields["request_id"] = str(uuid4())
    return rpc.message(fields)


def request_id_of(request: Any) -> str:
    found: str = request.request_id
    return found


async def call(mesh: RunningMesh, rpc: Rpc, request: Message, token: str) -> None:
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        while True:
            try:
                await rpc.on(channel)(request, metadata=(("authorization", f"Bearer {token}"),))
            except grpc.aio.AioRpcError as error:
                # A signing key that was rotated by another test has to sign first.
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise
                await asyncio.sleep(0.5)
            else:
                return


async def entries(mesh: RunningMesh, rpc: Rpc, request: Message) -> list[Any]:
    """Reads the entries of a request from the database of the service that answered it."""
    service = rpc.path.split(".")[1]
    async with connected(mesh.data_dir, service) as database:
        return await database.fetch(
            "SELECT * FROM audit_entry WHERE method = $1 AND request_hash = $2",
            rpc.path.removeprefix("/"),
            sha256(request.SerializeToString()).digest(),
        )


def test_every_audited_rpc_is_driven() -> None:
    audited = {path for path, guard in GUARDS.items() if guard.audit}
    assert audited == {rpc.path for rpc in AUDITED} | INSIDE.keys()
    assert all(not GUARDS[path].open for path in INSIDE)


@pytest.mark.parametrize("rpc", AUDITED, ids=lambda rpc: rpc.name)
async def test_a_mutation_leaves_one_entry_and_its_repeat_none(mesh: RunningMesh, world: World, rpc: Rpc) -> None:
    request = unique(rpc, world)
    before = len(await entries(mesh, rpc, request))
    await call(mesh, rpc, request, credentials(rpc, world))
    (entry,) = (await entries(mesh, rpc, request))[before:]
    assert (entry["outcome"], entry["reason"], entry["action"]) == (SUCCEEDED, "", rpc.guard.permission)
    assert entry["target"], f"{rpc.name} does not say what it was done to: call note(target=…) before the commit"
    # Envoy calls a client on its own machine by the machine's address.
    assert ip_address(entry["source_address"])
    assert entry["correlation_id"]
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        assert entry["request_id"] == request_id_of(request)
        await call(mesh, rpc, request, credentials(rpc, world))
        assert len(await entries(mesh, rpc, request)) == before + 1


@pytest.mark.parametrize("rpc", AUDITED, ids=lambda rpc: rpc.name)
async def test_a_refused_mutation_leaves_one_entry(mesh: RunningMesh, world: World, auditor: str, rpc: Rpc) -> None:
    request = unique(rpc, world)
    before = len(await entries(mesh, rpc, request))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(mesh, rpc, request, auditor)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    (entry,) = (await entries(mesh, rpc, request))[before:]
    assert (entry["outcome"], entry["reason"]) == (REFUSED, "PERMISSION_MISSING")
    assert entry["tenant_id"] == to_uuid(world.client.identity.whoami().tenant_id, "tenant")


@pytest.mark.parametrize("rpc", READS, ids=lambda rpc: rpc.name)
async def test_a_read_of_great_reach_leaves_one_entry_each_time_and_so_does_its_refusal(
    mesh: RunningMesh, world: World, auditor: str, rpc: Rpc
) -> None:
    assert rpc.streams
    request = rpc.message(dict(REQUESTS[rpc.name](world)))
    user = world.client.identity.create_key("works only", roles=["tenant_user"]).secret
    with Client(mesh.url, api_key=user) as client:
        without = client.identity.token()
    before = len(await entries(mesh, rpc, request))
    await drain(mesh, rpc, request, auditor)
    await drain(mesh, rpc, request, auditor)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain(mesh, rpc, request, without)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    found = (await entries(mesh, rpc, request))[before:]
    assert sorted(entry["outcome"] for entry in found) == sorted((SUCCEEDED, SUCCEEDED, REFUSED))
    assert all(entry["action"] == rpc.guard.permission for entry in found)
    assert all(ip_address(entry["source_address"]) for entry in found)


async def drain(mesh: RunningMesh, rpc: Rpc, request: Message, token: str) -> None:
    """Reads a stream to its end."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        async for _ in rpc.on(channel)(request, metadata=(("authorization", f"Bearer {token}"),)):
            pass
