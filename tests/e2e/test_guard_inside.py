"""Behind the edge and across time: internal RPCs x another tenant's ids, and every mutation x its `request_id`."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

import pytest
from google.protobuf.message import Message

from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import code_of, from_status
from tests.e2e.doors import Answer, Doors, at_once, bearer, open_doors, shown_by
from tests.e2e.owner import (
    INSIDE,
    NOBODY,
    TENANTS_OWN,
    Owner,
    a_reservation,
    asked_inside,
    kind_of,
    one_peer,
    owner,
    still_there,
    told,
)
from tests.e2e.test_every_rpc import REQUESTS, Request, World, a_prompt, a_question, provider, walked_tenant, world
from tests.support.mesh import RunningMesh
from tests.support.oidc_provider import OidcProvider
from tests.support.provenance import a_statement
from tests.support.public_rpcs import Rpc
from tests.support.request_fields import TextField, text_fields
from tests.support.whose import ids_in

__all__ = ["owner", "provider", "world"]  # fixtures


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


def a_hold(mesh: RunningMesh, world: World, *, dispatched: bool = False) -> str:
    """Holds money of the stranger; gives the id of the hold."""
    asked = {**a_reservation(world.ended_session), "dispatched": dispatched}
    return asked_inside(mesh, "BudgetService/Reserve", world.token, asked).hold.hold_id


def a_grant(mesh: RunningMesh, world: World) -> str:
    """Issues a grant for a run of the stranger; gives its id."""
    issued = asked_inside(mesh, "IdentityService/IssueGrant", world.token, {"run_id": world.ended_session})
    return issued.grant_id


def a_batch(world: World, **item: Any) -> Request:
    """One item of a stream, for the stranger."""
    return {"identities": {"access_tokens": [world.token]}, "items": [{"header": {"item_id": "7"}, **item}]}


def a_statement_about(world: World) -> str:
    """What the record says of a run of the stranger, as JSON writes bytes."""
    tenant_id = world.client.tenants.own().tenant_id
    return b64encode(a_statement(tenant_id=tenant_id, run_id=world.ended_session).to_json()).decode()


#: A request of the stranger for each internal RPC that serves a tenant, made anew for each call.
INTERNAL_REQUESTS: Final[Mapping[str, Callable[[RunningMesh, World], Request]]] = {
    "AccessService/AuthorizeCaller": lambda *_: {"relation": "viewer", "object": "project:walk"},
    "AuditService/SignProvenance": lambda _, world: {"statement": a_statement_about(world)},
    "BudgetService/BatchSpend": lambda mesh, world: a_batch(world, release={"hold_id": a_hold(mesh, world)}),
    "BudgetService/CreateBudget": lambda *_: {"run_id": SystemIds().new("run"), "limit_nano_usd": "1000"},
    "BudgetService/Extend": lambda mesh, world: {"hold_id": a_hold(mesh, world), "ttl": "7200s"},
    "BudgetService/MarkDispatched": lambda mesh, world: {"hold_id": a_hold(mesh, world)},
    "BudgetService/Release": lambda mesh, world: {"hold_id": a_hold(mesh, world)},
    "BudgetService/Reserve": lambda _, world: a_reservation(world.ended_session),
    "BudgetService/Settle": lambda mesh, world: {"hold_id": a_hold(mesh, world, dispatched=True)},
    "IdentityService/ExchangeGrant": lambda mesh, world: {
        "grant_id": a_grant(mesh, world),
        "run_id": world.ended_session,
    },
    "IdentityService/IssueGrant": lambda _, world: {"run_id": world.ended_session},
    "InferenceService/BatchGenerate": lambda _, world: a_batch(
        world, generate=a_prompt(model="stub", context={"call_id": {"run_id": SystemIds().new("walk")}})
    ),
    "MemoryService/BatchMemories": lambda _, world: a_batch(
        world,
        recall={
            "context": {"call_id": {"run_id": world.ended_session}},
            "session_id": world.ended_session,
            "recent_turns": 3,
        },
    ),
    "PolicyService/BatchEvaluate": lambda _, world: a_batch(world, **a_question("a word and a sword")),
}


async def test_a_service_that_acts_for_a_tenant_reaches_nothing_of_another(
    doors: Doors, mesh: RunningMesh, owner: Owner, world: World
) -> None:
    """A peer that may call, with the stranger's token and an id of the owner."""
    assert INTERNAL_REQUESTS.keys() == {rpc.name for rpc in INSIDE}
    shown = {rpc.name: shown_by(mesh, one_peer(rpc.guard.peers)) for rpc in INSIDE}
    cases = [(field, kind) for rpc in INSIDE for field in text_fields(rpc) if (kind := kind_of(field))]

    async def ask(rpc: Rpc, bend: Callable[[Message], Message]) -> Answer:
        fields = await asyncio.to_thread(lambda: INTERNAL_REQUESTS[rpc.name](mesh, world))
        request = bend(rpc.message(fields))
        # A grant stands for itself: whoever shows it needs no token.
        token = () if rpc.guard.open else bearer(world.token)
        return of_item(rpc, await doors.knock(rpc.path.split(".")[1], rpc, request, (*shown[rpc.name], *token)))

    async def both(field: TextField, kind: str) -> tuple[Answer, Answer]:
        nobodys, owners = NOBODY[kind], owner.ids[kind]
        return (
            await ask(field.rpc, lambda request: field.put(request, nobodys)),
            await ask(field.rpc, lambda request: field.put(request, owners)),
        )

    async def good(rpc: Rpc) -> Answer:
        return await ask(rpc, lambda request: request)

    for rpc, answer in zip(INSIDE, await at_once(4, map(good, INSIDE)), strict=True):
        assert answer.code == "OK", f"{rpc.name} is not called as it should be: {answer.short}"
    answers = await at_once(4, (both(field, kind) for field, kind in cases))
    wrong = [
        f"{field}: {what}"
        for (field, kind), (nobodys, owners) in zip(cases, answers, strict=True)
        for what in told(owner, kind, nobodys, owners)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(cases) >= 25
    still_there(owner)
    # What was held for the owner is held still, and what was granted is granted.
    token, ids = owner.client.identity.token(), owner.ids
    released = asked_inside(mesh, "BudgetService/MarkDispatched", token, {"hold_id": ids["hold_id"]})
    assert released.hold.hold_id == ids["hold_id"]
    exchanged = {"grant_id": ids["grant_id"], "run_id": ids["run_id"]}
    assert asked_inside(mesh, "IdentityService/ExchangeGrant", token, exchanged).access_token


def of_item(rpc: Rpc, answer: Answer) -> Answer:
    """Gives how the one item of a batch ended; of other calls how they did."""
    if not rpc.method.client_streaming or answer.code != "OK":
        return answer
    batch: Any = rpc.response_class.FromString(answer.body)
    [item] = batch.items
    if not item.status.HasField("error"):
        return answer
    error = from_status(item.status.error)
    return Answer(code_of(item.status.error).name, error.reason, item.status.error.message)


@pytest.fixture(scope="module")
def second(mesh: RunningMesh, provider: OidcProvider, world: World) -> Iterator[World]:
    """Gives another tenant like the first; both may ask as fast as they can."""
    with walked_tenant(mesh, provider, person="bea@example.com") as walked:
        for one in (world, walked):
            one.operator.tenants.set_quotas(one.client.tenants.own().tenant_id, {"rate_factor": 1000})
        yield walked


MUTATING: Final = tuple(rpc for rpc in TENANTS_OWN if "request_id" in rpc.method.input_type.fields_by_name)


async def test_a_request_id_of_another_tenant_is_ones_own_at_every_rpc(
    doors: Doors, world: World, second: World
) -> None:
    """One tenant asks; another asks the same with the same id, and is served as with an id that nobody used."""

    async def ask(rpc: Rpc, request: Message, who: World) -> Answer:
        return await doors.knock(rpc.path.split(".")[1], rpc, request, bearer(who.token))

    own: list[str] = []

    async def wrong_of(rpc: Rpc) -> list[str]:
        fields = await asyncio.to_thread(REQUESTS[rpc.name], world)
        request = rpc.message({**fields, "request_id": str(uuid4())})
        first = await ask(rpc, request, world)
        theirs = await ask(rpc, request, second)
        unused = await ask(rpc, rpc.message({**fields, "request_id": str(uuid4())}), second)
        again = await ask(rpc, request, world)
        of_first = ids_in(first.body) - ids_in(str(request).encode())
        found: list[str] = []
        if (first.code, again.code) != ("OK", "OK"):
            found.append(f"{rpc.name}: {first.short}, then {again.short}")
        if shown := of_first & ids_in(theirs.body + theirs.message.encode()):
            found.append(f"{rpc.name}: shows {shown}")
        if of_first != ids_in(again.body) - ids_in(str(request).encode()) and not rpc.streams:
            found.append(f"{rpc.name}: the first tenant is told of another thing at its repeat")
        own.extend([rpc.name] if theirs.code == "OK" else [])
        refused = (theirs.code, theirs.reason, theirs.message) != (unused.code, unused.reason, unused.message)
        # What was made with the id of the other stands in the way of making it once more, so it was made.
        if theirs.code != "OK" and refused:
            found.append(f"{rpc.name}: {theirs.short} instead of {unused.short}")
        return found

    wrong = [line for lines in await at_once(4, map(wrong_of, MUTATING)) for line in lines]
    assert not wrong, "\n".join(wrong)
    assert len(own) >= 15, f"only {own} were done for the other tenant"
