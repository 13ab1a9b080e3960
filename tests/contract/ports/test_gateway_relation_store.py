"""One suite for the store of relations, on our own database and on a server that speaks OpenFGA's HTTP API."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import pytest_asyncio

from services.gateway.clients.openfga import openfga_store
from services.gateway.domain.access_errors import CheckTooDeep, ModelInvalid, RelationsChangedMeanwhile
from services.gateway.relations.check import Question
from services.gateway.relations.model import Model
from services.gateway.relations.parse import parse_model
from services.gateway.relations.shipped import SHIPPED_MODEL
from services.gateway.relations.tuples import RelationTuple, parse_object, parse_user
from services.gateway.storage.access_work import SqlBeginAccessWork, SqlUndeliveredChanges
from services.gateway.storage.relation_store import SqlRelationStore
from services.gateway.usecases.access_ports import (
    AccessWork,
    BeginAccessWork,
    Changed,
    RelationStore,
    TupleChange,
    TupleFilter,
)
from services.gateway.usecases.deliver_relations import DeliverRelations, make_undelivered
from services.gateway.usecases.write_relations import WriteRelations
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Internal, Invalid, Unavailable
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from tests.support.openfga import STORE_ID, TOKEN, OpenFgaServer, Refusal, openfga_server
from tests.support.relations import a_tuple, naive_check, random_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHIPPED = parse_model(SHIPPED_MODEL)
CHAIN = (
    "project:claims parent workflow:intake",
    "organization:acme parent project:claims",
    "user:anna admin organization:acme",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A store and a tenant in it."""

    store: RelationStore
    begin: SqlBeginAccessWork
    tenant: TenantId

    async def change(self, *writes: str, deletes: tuple[str, ...] = (), model: Model = SHIPPED) -> Changed:
        return await self.keep([a_tuple(one) for one in writes], [a_tuple(one) for one in deletes], model=model)

    async def keep(
        self, writes: list[RelationTuple], deletes: list[RelationTuple], *, model: Model = SHIPPED
    ) -> Changed:
        async with self.begin(self.tenant) as work:
            changed = await self.store.change(work, self.tenant, model, TupleChange(writes=writes, deletes=deletes))
            await work.commit()
        async with self.begin(self.tenant) as work:
            await make_undelivered(work, self.store, self.tenant)
            await work.commit()
        return changed

    async def listed(self, wanted: TupleFilter, *, most: int = 50) -> list[str]:
        found: list[str] = []
        after: str | None = None
        for _ in range(100):
            page = await self.store.page(self.tenant, wanted, after=after, most=most)
            assert len(page.tuples) <= most
            found += [str(one) for one in page.tuples]
            after = page.next
            if after is None:
                return found
        raise AssertionError("the list has no end")

    async def allows(self, question: str, *, model: Model = SHIPPED) -> bool:
        return (await self.store.check(self.tenant, model, a_question(question))).allowed


def a_question(text: str) -> Question:
    user, relation, thing = text.split()
    return Question(parse_object(user, field="user"), relation, parse_object(thing, field="object"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_gateway_{secrets.token_hex(4)}")
    await migrate("services.gateway", made.migrator)
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[OpenFgaServer]:
    async with openfga_server() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["postgres", "openfga"])
async def kept(request: pytest.FixtureRequest, urls: DatabaseUrls, server: OpenFgaServer) -> AsyncIterator[Kept]:
    async with (
        sql_engine(urls.app, pool_size=3) as app,
        openfga_store(server.url, store_id=STORE_ID, token=TOKEN) as remote,
    ):
        store = remote if request.param == "openfga" else SqlRelationStore(app)
        yield Kept(store=store, begin=SqlBeginAccessWork(app), tenant=TenantId(uuid4()))


@pytest_asyncio.fixture(loop_scope="module")
async def remote(urls: DatabaseUrls, server: OpenFgaServer) -> AsyncIterator[Kept]:
    async with (
        sql_engine(urls.app, pool_size=3) as app,
        openfga_store(server.url, store_id=STORE_ID, token=TOKEN) as store,
    ):
        yield Kept(store=store, begin=SqlBeginAccessWork(app), tenant=TenantId(uuid4()))


async def test_what_was_written_grants_and_what_was_removed_no_longer(kept: Kept) -> None:
    assert await kept.change(*CHAIN) == Changed(written=3, deleted=0)
    assert await kept.allows("user:anna runner workflow:intake")
    assert not await kept.allows("user:ben runner workflow:intake")
    assert await kept.change(deletes=CHAIN[2:]) == Changed(written=0, deleted=1)
    assert not await kept.allows("user:anna runner workflow:intake")


async def test_a_refusal_names_what_would_grant_it(kept: Kept) -> None:
    found = await kept.store.check(kept.tenant, SHIPPED, a_question("user:anna editor project:claims"))
    assert "`user:anna editor project:claims`" in found.would_grant
    assert "user:anna is not editor of project:claims" in found.explanation[0]
    await kept.change("user:anna editor project:claims")
    found = await kept.store.check(kept.tenant, SHIPPED, a_question("user:anna editor project:claims"))
    assert found.allowed
    assert found.explanation
    assert found.would_grant == ()


async def test_writing_twice_and_removing_what_is_gone_changes_nothing(kept: Kept) -> None:
    await kept.change(CHAIN[0])
    assert await kept.change(*CHAIN, deletes=("user:ben admin organization:acme",)) == Changed(written=2, deleted=0)
    assert await kept.change(*CHAIN) == Changed(written=0, deleted=0)
    assert len(await kept.listed(TupleFilter())) == 3


async def test_tuples_are_listed_by_object_relation_and_user(kept: Kept) -> None:
    await kept.change(*CHAIN, "user:anna editor project:claims", "user:anna viewer project:other")
    claims, anna = parse_object("project:claims", field=""), parse_user("user:anna", field="")
    assert sorted(await kept.listed(TupleFilter(object=claims))) == [
        "organization:acme parent project:claims",
        "user:anna editor project:claims",
    ]
    assert await kept.listed(TupleFilter(object=claims, relation="editor")) == ["user:anna editor project:claims"]
    assert await kept.listed(TupleFilter(object=claims, user=anna)) == ["user:anna editor project:claims"]
    assert len(await kept.listed(TupleFilter(user=anna))) == 3
    assert len(await kept.listed(TupleFilter(relation="parent"))) == 2


async def test_long_lists_come_in_pages_with_nothing_twice(kept: Kept) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    written = [f"user:u{number:03} viewer project:p{number % 7}" for number in range(95)]
    await kept.change(*written)
    listed = await kept.listed(TupleFilter(), most=10)
    assert sorted(listed) == sorted(written)
    page = await kept.store.page(kept.tenant, TupleFilter(), after=None, most=1)
    assert before < (page.tuples[0].write_time or before) <= datetime.now(UTC) + timedelta(seconds=5)
    with pytest.raises(Invalid) as raised:
        await kept.store.page(kept.tenant, TupleFilter(), after="x", most=10)
    assert raised.value.field == "page_token"


async def test_another_tenant_sees_and_is_granted_nothing(kept: Kept) -> None:
    model = parse_model(SHIPPED_MODEL.replace("define admin: [user]\n", "define admin: [user, user:*]\n", 1))
    await kept.change(*CHAIN, "user:* admin organization:acme", model=model)
    other = Kept(store=kept.store, begin=kept.begin, tenant=TenantId(uuid4()))
    assert await other.listed(TupleFilter()) == []
    assert await other.listed(TupleFilter(object=parse_object("project:claims", field=""))) == []
    assert not await other.allows("user:anna runner workflow:intake", model=model)
    assert await kept.allows("user:zoe runner workflow:intake", model=model)
    await other.change("project:claims parent workflow:intake", "user:anna editor project:claims", model=model)
    assert await other.change(deletes=CHAIN[1:], model=model) == Changed(written=0, deleted=0)
    assert await kept.allows("user:zoe runner workflow:intake", model=model)


async def test_two_tenants_may_have_two_models(kept: Kept) -> None:
    strict = parse_model(SHIPPED_MODEL.replace("define editor: [user] or admin from parent", "define editor: [user]"))
    await kept.store.accept(strict)
    await kept.change(*CHAIN)
    assert await kept.allows("user:anna editor project:claims")
    assert not await kept.allows("user:anna editor project:claims", model=strict)


@pytest.mark.parametrize("seed", range(40, 60))
async def test_any_model_and_any_tuples_give_the_answer_of_the_long_way(kept: Kept, seed: int) -> None:
    world = random_world(seed)
    if not world.tuples:
        return
    await kept.keep(world.tuples, [], model=world.model)
    for user, goal in world.questions:
        found = await kept.store.check(kept.tenant, world.model, Question(user, goal.relation, goal.object))
        assert found.allowed == naive_check(world.model, world.tuples, user, goal), (str(user), str(goal))


async def test_a_model_is_written_to_the_server_once_and_found_again(remote: Kept, server: OpenFgaServer) -> None:
    await remote.store.accept(SHIPPED)
    await remote.allows("user:anna editor project:claims")
    async with openfga_store(server.url, store_id=STORE_ID, token=TOKEN) as restarted:
        await restarted.check(remote.tenant, SHIPPED, a_question("user:anna editor project:claims"))
    assert server.asked.count("POST authorization-models") == 1


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Refusal(500, "internal_error", "Internal Server Error"), Unavailable),
        (Refusal(429, "rate_limit_exceeded", "slow down"), Unavailable),
        (Refusal(422, "throttled_timeout_error", "timeout due to throttling"), Unavailable),
        (Refusal(400, "authorization_model_resolution_too_complex", "too complex"), CheckTooDeep),
        (Refusal(403, "forbidden", "forbidden"), Internal),
    ],
)
async def test_what_the_server_refuses_is_told_in_our_own_errors(
    remote: Kept, server: OpenFgaServer, refusal: Refusal, error: type[Exception]
) -> None:
    await remote.store.accept(SHIPPED)
    server.refusals.append(refusal)
    with pytest.raises(error):
        await remote.allows("user:anna editor project:claims")
    assert not await remote.allows("user:anna editor project:claims")


async def test_a_model_that_the_server_does_not_take_is_invalid(remote: Kept, server: OpenFgaServer) -> None:
    server.refusals += [
        Refusal(200, "", ""),
        Refusal(400, "invalid_authorization_model", "no entrypoints defined"),
    ]
    with pytest.raises(ModelInvalid, match="no entrypoints defined"):
        await remote.store.accept(SHIPPED)


async def test_a_faster_writer_is_looked_at_again_and_then_a_conflict(remote: Kept, server: OpenFgaServer) -> None:
    await remote.store.accept(SHIPPED)
    there = Refusal(400, "write_failed_due_to_invalid_input", "cannot write a tuple which already exists")
    for refusal in (there, Refusal(409, "Aborted", "transactional write failed due to conflict")):
        server.refusals += [Refusal(200, "", ""), Refusal(200, "", ""), refusal]
        await remote.change("user:anna editor project:claims")
        await remote.change(deletes=("user:anna editor project:claims",))
    server.refusals += [Refusal(200, "", ""), *[Refusal(200, "", ""), there] * 3]
    with pytest.raises(RelationsChangedMeanwhile):
        await remote.change("user:anna editor project:claims")


@dataclass(frozen=True, slots=True)
class Failing:
    """Begins transactions whose commit fails."""

    begin: SqlBeginAccessWork

    @asynccontextmanager
    async def __call__(self, tenant: TenantId, /) -> AsyncIterator[AccessWork]:
        async def fail() -> None:
            raise Unavailable("postgres")

        async with self.begin(tenant) as work:
            work.commit = fail
            yield work


@dataclass(frozen=True, slots=True)
class Writing:
    """The use case over a server elsewhere."""

    kept: Kept
    deliver: DeliverRelations

    async def __call__(self, *writes: str, begin: BeginAccessWork | None = None) -> Changed:
        write = WriteRelations(
            begin=begin or self.kept.begin, store=self.kept.store, deliver=self.deliver, most=1_000_000
        )
        caller = Caller(principal=Principal(tenant=self.kept.tenant, subject="key_1", roles=frozenset({Role.ADMIN})))
        return await write(caller, TupleChange(writes=[a_tuple(one) for one in writes], deletes=[]))

    async def governed(self) -> frozenset[str]:
        async with self.kept.begin(self.kept.tenant) as work:
            return (await work.models.get(self.kept.tenant)).governed


@pytest_asyncio.fixture(loop_scope="module")
async def writing(remote: Kept, urls: DatabaseUrls) -> AsyncIterator[Writing]:
    async with sql_engine(urls.maintenance, pool_size=1) as maintenance:
        undelivered = SqlUndeliveredChanges(maintenance)
        yield Writing(
            remote,
            DeliverRelations(begin=remote.begin, store=remote.store, undelivered=undelivered, clock=SystemClock()),
        )


async def test_nothing_is_changed_elsewhere_that_was_not_committed_here(
    remote: Kept, server: OpenFgaServer, writing: Writing
) -> None:
    with pytest.raises(Unavailable):
        await writing("user:anna editor project:claims", begin=Failing(remote.begin))
    await writing.deliver.round()
    assert (server.tuples, await writing.governed()) == ({}, frozenset())


async def test_what_was_committed_here_is_made_elsewhere_whatever_came_in_between(
    remote: Kept, server: OpenFgaServer, writing: Writing
) -> None:
    await remote.store.accept(SHIPPED)
    looked = Refusal(200, "", "")
    server.refusals += [looked, looked, Refusal(500, "internal_error", "Internal Server Error")]
    with pytest.raises(Unavailable):
        await writing("user:anna editor project:claims")
    assert (server.tuples, await writing.governed()) == ({}, {"project"})
    await writing.deliver.round()
    assert await remote.allows("user:anna editor project:claims")
    async with remote.begin(remote.tenant) as work:
        assert await work.changes.undelivered(remote.tenant) == []


async def test_what_waits_is_made_before_what_comes_later(
    remote: Kept, server: OpenFgaServer, writing: Writing
) -> None:
    await remote.store.accept(SHIPPED)
    looked = Refusal(200, "", "")
    server.refusals += [looked, looked, Refusal(500, "internal_error", "Internal Server Error")]
    with pytest.raises(Unavailable):
        await writing("user:anna editor project:claims")
    assert await writing("user:anna editor project:claims") == Changed(written=0, deleted=0)


async def test_a_server_that_is_away_while_one_writes_notes_nothing(
    remote: Kept, server: OpenFgaServer, writing: Writing
) -> None:
    await remote.store.accept(SHIPPED)
    server.refusals.append(Refusal(500, "internal_error", "Internal Server Error"))
    with pytest.raises(Unavailable):
        await writing("user:anna editor project:claims")
    await writing.deliver.round()
    assert (server.tuples, await writing.governed()) == ({}, frozenset())


async def test_a_server_that_is_away_or_a_wrong_key_is_no_answer(remote: Kept, server: OpenFgaServer) -> None:
    question = a_question("user:anna editor project:claims")
    async with openfga_store("http://127.0.0.1:1", store_id=STORE_ID) as nobody:
        with pytest.raises(Unavailable):
            await nobody.check(remote.tenant, SHIPPED, question)
    async with openfga_store(server.url, store_id=STORE_ID, token="wrong") as stranger:
        with pytest.raises(Internal):
            await stranger.check(remote.tenant, SHIPPED, question)
