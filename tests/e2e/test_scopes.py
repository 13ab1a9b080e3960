"""An API key that is narrowed to some permissions does that work to its end, and nothing beside it."""

from typing import Final

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from tests.e2e.conftest import ENDED, Tenant, until
from tests.e2e.test_identity import GUARDED, refused_by_grpc
from tests.support.mesh import RunningMesh

#: What a session asks for at doors that its caller could knock at as well: to begin it, and to let its agents speak.
STARTS: Final = frozenset({"sessions.start", "inference.generate"})


async def test_a_key_for_sessions_alone_starts_one_of_a_project_to_its_end(tenant: Tenant, mesh: RunningMesh) -> None:
    await tenant.cast("Ada")
    tenant.says("Rivers need their meadows")
    made = await tenant.client.identity.create_key("starter", roles=["tenant_user"], scopes=sorted(STARTS))
    # From the first relation on a project is its editors'; so the gateway is asked about the caller.
    await tenant.client.access.grant(f"user:{made.api_key.api_key_id}", "editor", "project:claims")

    async with AsyncClient(mesh.url, api_key=made.secret) as starter:
        session = await starter.sessions.start(
            f"Rivers {tenant.mark}", agents=["Ada"], max_rounds=1, metadata={"project": "claims"}
        )

    async def ended() -> session_pb2.Session | None:
        found = await tenant.client.sessions.get(session.session_id)
        return found if found.state in ENDED else None

    found = await until(ended)
    assert found.state == session_pb2.SESSION_STATE_SUCCEEDED, found
    [turn] = await tenant.turns(session.session_id)
    assert turn.output.content == "Rivers need their meadows"


async def test_a_key_for_sessions_alone_is_refused_everything_else(tenant: Tenant, mesh: RunningMesh) -> None:
    made = await tenant.client.identity.create_key("starter", roles=["tenant_user"], scopes=sorted(STARTS))
    others = [rpc for rpc in GUARDED if rpc.guard.permission not in STARTS]
    assert len(others) > 50
    for rpc in others:
        found = await refused_by_grpc(mesh, rpc, {"x-api-key": made.secret})
        assert found == ("PERMISSION_DENIED", "PERMISSION_MISSING"), rpc.name
