"""No provider is asked without money that the ledger holds for it, and whoever comes without is found out (INV-7)."""

from typing import Any

import aiohttp
import pytest

from comitia.cost.v1 import cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from comitia.inference.v1 import inference_service_pb2 as pb
from services.meshkit.grpc.channel import call_metadata
from tests.integration.inference.conftest import InferenceMesh, StartInference
from tests.support.money import MODEL, a_reserve, a_run_id
from tests.support.providers.fake import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Should cities ban cars?"}]}
PATHS = {
    "/v1/chat/completions": (BODY, {"authorization": f"Bearer {KEY}"}),
    "/v1/messages": ({**BODY, "max_tokens": 64}, {"x-api-key": KEY}),
    "/v1/embeddings": ({"model": "text-embedding-3-small", "input": ["a"]}, {"authorization": f"Bearer {KEY}"}),
}


async def asked(mesh: InferenceMesh, hold_id: str | None, path: str = "/v1/chat/completions") -> int:
    """Asks the provider past the mesh; gives the status."""
    body, headers = PATHS[path]
    named = {} if hold_id is None else {"x-client-request-id": hold_id}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{mesh.provider.address}{path}", json=body, headers={**headers, **named}) as answer,
    ):
        return answer.status


async def reserved(mesh: InferenceMesh, *, dispatched: bool) -> cost_pb2.Hold:
    stub: Any = BudgetServiceStub(mesh.money.channel)
    order = a_reserve(dispatched=dispatched, run_id=a_run_id())
    return (await stub.Reserve(order, metadata=call_metadata(mesh.principal))).hold


async def test_each_call_of_the_mesh_names_the_hold_that_pays_for_it(start: StartInference) -> None:
    async with start(openai_embedding_model="text-embedding-3-small") as mesh:
        answer = await mesh.generate()
        await mesh.call("Embed", pb.EmbedRequest(texts=["one"]))
        chat, embedding = mesh.provider.meter.calls
        assert chat.hold_id == answer.hold_id
        assert {chat.hold_id, embedding.hold_id} == {charge.hold_id for charge in await mesh.charges()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("hold_id", [None, "", "hold_1", "hold_00000000000000000000000000"])
async def test_a_call_without_a_hold_that_the_ledger_knows_is_refused(
    mesh: InferenceMesh, path: str, hold_id: str | None
) -> None:
    assert await asked(mesh, hold_id, path) == 402
    assert len(mesh.provider.meter.unheld) == 1
    assert mesh.provider.meter.confirmed == []
    mesh.provider.forget()


async def test_a_hold_pays_for_one_call_that_leaves_and_for_no_other(mesh: InferenceMesh) -> None:
    waiting = await reserved(mesh, dispatched=False)
    leaving = await reserved(mesh, dispatched=True)
    settled = (await mesh.generate()).hold_id
    mesh.provider.forget()
    holds = (leaving.hold_id, leaving.hold_id, waiting.hold_id, settled)
    assert [await asked(mesh, hold_id) for hold_id in holds] == [200, 402, 402, 402]
    assert [call.held for call in mesh.provider.meter.calls] == [True, False, False, False]
    mesh.provider.forget()
