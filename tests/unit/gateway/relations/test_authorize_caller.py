"""Under which names a caller stands in relations, and what it is told when it has none."""

from dataclasses import dataclass, field

from services.gateway.relations.check import Finding, Question, check
from services.gateway.relations.model import Model
from services.gateway.relations.shipped import SHIPPED_MODEL
from services.gateway.relations.tuples import RelationTuple
from services.gateway.usecases.access_ports import (
    AccessWork,
    Changed,
    TenantModel,
    TupleChange,
    TupleFilter,
    TuplePage,
)
from services.gateway.usecases.check_relation import Authorization, AuthorizeCaller
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.relations import TuplesInMemory, a_tuple


@dataclass(slots=True)
class Store:
    """Implements `ModelReader` and `RelationStore` for one tenant whose projects are governed."""

    text: str = SHIPPED_MODEL
    tuples: list[RelationTuple] = field(default_factory=list[RelationTuple])

    async def get(self, tenant: TenantId) -> TenantModel:
        return TenantModel(text=self.text, revision=0, governed=frozenset({"project"}))

    async def accept(self, model: Model) -> None:
        pass

    async def change(self, work: AccessWork, tenant: TenantId, model: Model, change: TupleChange) -> Changed:
        self.tuples += change.writes
        return Changed(written=len(change.writes), deleted=0)

    @property
    def elsewhere(self) -> bool:
        return False

    async def make(self, body: bytes) -> None:
        raise AssertionError("nothing is kept elsewhere")

    async def page(self, tenant: TenantId, wanted: TupleFilter, *, after: str | None, most: int) -> TuplePage:
        return TuplePage(self.tuples, None)

    async def check(self, tenant: TenantId, model: Model, question: Question) -> Finding:
        return await check(model, TuplesInMemory(self.tuples), question)


async def ask(store: Store, *, subject: str, email: str | None = None, role: Role = Role.TENANT_USER) -> Authorization:
    principal = Principal(tenant=TENANT, subject=subject, email=email, roles=frozenset({role}))
    authorize = AuthorizeCaller(models=store, store=store)
    return await authorize(Caller(principal=principal), "editor", "project:claims")


async def test_a_person_is_known_by_subject_and_by_mail_address() -> None:
    for name in ("user_1", "anna@example.com"):
        store = Store(tuples=[a_tuple(f"user:{name} editor project:claims")])
        assert (await ask(store, subject="user_1", email="anna@example.com")).allowed
        assert not (await ask(store, subject="user_2", email="ben@example.com")).allowed


async def test_a_name_that_no_tuple_can_hold_is_passed_over() -> None:
    store = Store(tuples=[a_tuple("user:anna@example.com editor project:claims")])
    assert (await ask(store, subject="https://issuer/anna", email="anna@example.com")).allowed
    assert not (await ask(store, subject="user_1", email="o'brien@example.com")).allowed
    assert not (await ask(store, subject="*")).allowed


async def test_a_model_without_the_relation_refuses_all_but_administrators() -> None:
    store = Store(text="model\n  schema 1.1\ntype user\ntype team\n  relations\n    define member: [user]")
    refused = await ask(store, subject="user_1")
    assert (refused.allowed, "no type `project`" in refused.missing) == (False, True)
    assert (await ask(store, subject="user_1", role=Role.ADMIN)).allowed
