"""A replica that starts while its database is away goes by what it knew last."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio

from comitia.inference.v1 import model_pb2, model_service_pb2
from services.inference.storage.registry_file import RegistryFile
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.kek_file import KekFile
from tests.integration.conftest import free_port
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings
from tests.integration.inference.test_model_registry import a_deployment, a_rollout, a_route, away, eventually
from tests.support.providers.fake import KEY, FakeProvider, fake_provider

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def second() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


async def said_at_the_door(mesh: InferenceMesh, door: str) -> str:
    """Asks the route without an id, and gives who answered."""
    body = {"model": "writer", "messages": [{"role": "user", "content": "Should cities ban cars?"}]}
    headers = {"authorization": f"Bearer {mesh.principal.token.reveal()}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{door}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return response.headers["x-comitia-deployment"]


async def test_a_replica_that_starts_without_its_database_serves_and_takes_back_what_it_knew_last(
    start: StartInference, surroundings: Surroundings, second: FakeProvider, postgres: str, tmp_path: Path
) -> None:
    tenant, path = surroundings.keys.principal(tenant=TenantId(uuid4())), tmp_path / "registry"
    file = RegistryFile(path, await KekFile.read(surroundings.folder / "kek"), clock=SystemClock())
    door = f"127.0.0.1:{free_port()}"
    options: dict[str, Any] = {"private_endpoints": True, "registry_path": path, "doors_listen": door}

    async def kept() -> bool:
        known = await file.read()
        return known is not None and "writer" in known.state.holdings[tenant.tenant].rollouts

    async with start(**options) as running:
        mesh = running.speaking_as(tenant)
        await a_deployment(mesh, "acme/canary", second)
        await a_route(mesh, "writer", "openai/gpt-4o-mini")
        begun = a_rollout(("openai/gpt-4o-mini", 0), ("acme/canary", 1), steps_permille=[999])
        about = {"rollout_id": (await mesh.call("StartModelRollout", begun)).rollout.rollout_id}
        await eventually(kept)
    assert KEY.encode() not in path.read_bytes()
    back = model_service_pb2.RollBackModelRolloutRequest(**about)
    async with away(mesh, postgres):
        async with start(**options) as running:
            alone = running.speaking_as(tenant)
            # All calls but one in a thousand.
            assert "acme/canary" in [await said_at_the_door(alone, door) for _ in range(3)]
            taken_back = (await alone.call("RollBackModelRollout", back)).rollout
            assert taken_back.state == model_pb2.ROLLOUT_STATE_ROLLED_BACK
            assert await said_at_the_door(alone, door) == "openai/gpt-4o-mini"

            async def kept_as_taken_back() -> bool:
                known = await file.read()
                return known is not None and [rollout.id for _, rollout in known.owed] == [about["rollout_id"]]

            await eventually(kept_as_taken_back)
        async with start(**options) as running:
            assert await said_at_the_door(running.speaking_as(tenant), door) == "openai/gpt-4o-mini"
    async with start(**options) as running:
        mesh = running.speaking_as(tenant)

        async def durable() -> bool:
            try:
                found = await mesh.call("GetModelRollout", model_service_pb2.GetModelRolloutRequest(**about))
            except MeshError:
                return False
            return found.rollout.state == model_pb2.ROLLOUT_STATE_ROLLED_BACK

        await eventually(durable, seconds=20)
