"""A list of runs of many projects asks about few of them at once."""

import asyncio
from uuid import UUID

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.orchestrator.usecases.run_access import ASKED_TOGETHER, RunAccess
from tests.support.memory_access_gate import MemoryAccessGate

USER = Caller(principal=Principal(tenant=TenantId(UUID(int=1)), subject="key_1", roles=frozenset({Role.TENANT_USER})))


class CountingGate(MemoryAccessGate):
    """Counts the questions that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = self.asked = 0

    async def allows(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> bool:
        self.open, self.asked = self.open + 1, self.asked + 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        return await super().allows(caller, relation, thing, last_known=last_known)


def of_project(name: str) -> session_pb2.Session:
    return session_pb2.Session(session_id=f"run_{name}", metadata={"project": name})


async def test_a_page_of_many_projects_asks_about_few_at_once_and_about_each_one_once() -> None:
    gate = CountingGate()
    gate.grant("key_1", "viewer", "project:p7")
    page = [of_project(f"p{number % 250}") for number in range(500)]
    found = await RunAccess(gate).readable(USER, page)
    assert [session.metadata["project"] for session in found] == ["p7", "p7"]
    assert (gate.asked, gate.most) == (250, ASKED_TOGETHER)
