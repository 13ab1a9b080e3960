"""Every RPC x every text in its request: another tenant's ids tell nothing, and no text breaks a service."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from secrets import token_hex
from typing import Any, Final, cast

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from comitia_sdk.errors import ComitiaError
from comitia_sdk.sync import Client
from tests.e2e.doors import Answer, Doors, at_once, bearer, open_doors
from tests.e2e.owner import (
    FREE,
    INSIDE,
    KINDS,
    MARK,
    NOBODY,
    TENANTS_OWN,
    Owner,
    kind_of,
    leak,
    owner,
    still_there,
    told,
)
from tests.e2e.test_every_rpc import REQUESTS, World, provider, world
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import PUBLIC, Rpc
from tests.support.request_fields import TextField, text_fields

__all__ = ["owner", "provider", "world"]  # fixtures

#: Texts that break those who put them into SQL, filters, paths, patterns or columns as they are.
HOSTILE: Final[Mapping[str, str]] = {
    "SQL": "' OR '1'='1' --",
    "SQL that ends": "x'); DROP TABLE agent; --",
    "a union": "1 UNION SELECT * FROM api_key",
    "a vector filter": '" or tenant_id != "',
    "wildcards": "%_*?",
    "NUL": "a\0b",
    "NUL alone": "\0",
    "dots": "../../../etc/passwd",
    "subject wildcards": "comitia.>.*",
    "line ends": "a\r\nx-evil: 1",
    "unicode": "İ\u202e\U0001f512\ufeff\u0130",
    "combining": "e\u0301" * 30,
    "long": "x" * 5000,
    "a number too big": "9" * 40,
    "a template": "{{7*7}}${7*7}%s%n{0}",
    "JSON": '{"$ne": null}',
    "a space": " ",
    "deep": "[" * 2000,
}


def page_tokens() -> Iterator[str]:
    """Forges page tokens: places of every shape that lists have, with values that break those who trust them."""
    texts = ("x\0", "' OR 1=1 --", "\ud800", "", "x" * 400, MARK, "9999-99-99T00:00:00Z")
    numbers = (0, -1, 1 << 62, 1 << 63, 1 << 200, True)
    for text in texts:
        for shape in ([text], [text, text], [0, text], [text, text, 0], [text] * 6, [text, 0]):
            yield _token(shape)
    for number in numbers:
        for shape in ([number], [number, MARK], [MARK, MARK, number]):
            yield _token(shape)
    for other in ([], {}, [[]], [None], [1.5], "x"):
        yield _token(other)


def _token(place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


def test_every_field_that_looks_like_an_id_has_a_kind() -> None:
    unknown = {
        str(field)
        for rpc in (*PUBLIC, *INSIDE)
        for field in text_fields(rpc)
        if field.name.endswith(("_id", "_ids")) and field.name not in KINDS.keys() | FREE
    }
    assert not unknown, f"say in KINDS what these name: {sorted(unknown)}"


@pytest.fixture(scope="module")
def requests(world: World) -> Mapping[str, Message]:
    """Gives a good request of the stranger for each RPC of its own."""
    return {rpc.name: good_request(rpc, world) for rpc in TENANTS_OWN}


def good_request(rpc: Rpc, world: World) -> Message:
    return rpc.message(REQUESTS[rpc.name](world))


def round_of(field: TextField) -> int:
    """Tells when a field has its turn."""
    if "request_id" not in field.rpc.method.input_type.fields_by_name:
        return 0
    return 2 if field.name == "name" else 1


async def test_the_id_of_another_tenant_is_as_good_as_one_that_nobody_has(
    doors: Doors, owner: Owner, world: World, requests: Mapping[str, Message]
) -> None:
    stranger = bearer(world.token)
    found = [(field, kind) for rpc in TENANTS_OWN for field in text_fields(rpc) if (kind := kind_of(field))]
    # Readers first, those who give names last, so that nobody's ids stay nobody's as long as they are asked for.
    rounds = [[case for case in found if round_of(case[0]) == number] for number in range(3)]
    cases = [case for one in rounds for case in one]

    async def knock(way: str | int, rpc: Rpc, request: Message) -> Answer:
        if isinstance(way, str):
            return await doors.knock(way, rpc, request, stranger)
        call = rpc.rest(MessageToDict(request, preserving_proto_field_name=True))[way]
        return await doors.knock_by_rest(call, stranger)

    async def ask(way: str | int, field: TextField, text: str) -> Answer:
        # What changes something is asked anew each time, so that the second is not told of the first.
        once = "request_id" in field.rpc.method.input_type.fields_by_name
        request = await asyncio.to_thread(good_request, field.rpc, world) if once else requests[field.rpc.name]
        return await knock(way, field.rpc, field.put(request, text))

    async def everywhere(field: TextField, kind: str) -> list[tuple[Answer, Answer]]:
        """At the service, at the edge and by each path of REST; one after the other, for some can be done once."""
        return [
            (await ask(way, field, NOBODY[kind]), await ask(way, field, owner.ids[kind]))
            for way in ways(doors, field.rpc)
        ]

    for rpc in (rpc for rpc in TENANTS_OWN if "request_id" not in rpc.method.input_type.fields_by_name):
        for way in ways(doors, rpc):
            good = await knock(way, rpc, requests[rpc.name])
            assert good.code == "OK", f"{rpc.name} by {way} is not called as it should be: {good.short}"
    answers: list[list[tuple[Answer, Answer]]] = []
    for one in rounds:
        answers += await at_once(6, (everywhere(field, kind) for field, kind in one))
    wrong: list[str] = []
    for (field, kind), pairs in zip(cases, answers, strict=True):
        for way, (nobodys, owners) in zip(ways(doors, field.rpc), pairs, strict=True):
            wrong += [f"{field} by {way}: {what}" for what in told(owner, kind, nobodys, owners)]
    assert not wrong, "\n".join(wrong)
    assert len(cases) >= 100
    assert sum(map(len, answers)) >= 320
    still_there(owner)


def ways(doors: Doors, rpc: Rpc) -> list[str | int]:
    """Gives the doors of an RPC, and the numbers of its paths at the edge."""
    return [*doors.of(rpc), *range(len(rpc.paths("x")))]


async def test_no_text_breaks_a_service_or_opens_another_tenants_rows(
    doors: Doors, owner: Owner, world: World, requests: Mapping[str, Message]
) -> None:
    stranger = bearer(world.token)
    cases = [
        (field, name, text) for rpc in TENANTS_OWN for field in text_fields(rpc) for name, text in hostile_for(field)
    ]

    async def ask(field: TextField, text: str) -> Answer:
        request = field.put(requests[field.rpc.name], text)
        return await doors.knock(field.rpc.path.split(".")[1], field.rpc, request, stranger)

    answers: list[Answer] = await at_once(8, (ask(field, text) for field, _, text in cases))
    wrong = [
        f"{field} with {name}: {answer.short} {leak(answer)}"
        for (field, name, _), answer in zip(cases, answers, strict=True)
        if answer.code not in ALLOWED or leak(answer)
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:60])
    assert len(cases) >= 1000
    still_there(owner)


#: A refusal that is the caller's own fault, or an answer.
ALLOWED: Final = frozenset(
    {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "PERMISSION_DENIED"}
)
#: Content, which may be anything: a few texts will do.
CONTENT: Final = frozenset({"text", "texts", "title", "media_type", "description", "instructions", "topic", "source"})


def hostile_for(field: TextField) -> Iterator[tuple[str, str]]:
    """Gives what to try in a field, by name."""
    if field.name == "page_token":
        yield from ((f"token {number}", token) for number, token in enumerate(page_tokens()))
    if field.name in CONTENT or len(field.path) > 3:
        yield from ((name, HOSTILE[name]) for name in ("NUL", "unicode", "SQL"))
    else:
        yield from HOSTILE.items()


async def test_a_page_token_of_another_tenant_shows_nothing_of_it(
    doors: Doors, owner: Owner, world: World, requests: Mapping[str, Message]
) -> None:
    token = owner.client.identity.token()
    lists = [rpc for rpc in TENANTS_OWN if {"page_token", "page_size"} <= {*rpc.method.input_type.fields_by_name}]
    for rpc in lists:
        service = rpc.path.split(".")[1]
        first: Any = rpc.request_class(page_size=1)
        theirs: Any = rpc.request_class(page_size=500)
        if rpc.name == "SessionService/ListTurns":
            first.session_id, theirs.session_id = owner.ids["run_id"], world.ended_session
        if rpc.name == "RunService/ListRunSteps":
            first.run_id, theirs.run_id = owner.ids["run_id"], world.ended_session
        if rpc.name == "ModelBatchService/ListModelBatchResults":
            first.batch_id, theirs.batch_id = owner.ids["batch_id"], cast(Any, requests[rpc.name]).batch_id
        own = await doors.knock(service, rpc, first, bearer(token))
        assert own.code == "OK", f"{rpc.name}: {own.short}"
        answer: Any = rpc.response_class.FromString(own.body)
        theirs.page_token = answer.next_page_token
        seen = await doors.knock(service, rpc, theirs, bearer(world.token))
        assert seen.code in ALLOWED, f"{rpc.name}: {seen.short}"
        assert not leak(seen), rpc.name
    assert len(lists) >= 14


def test_a_sign_in_tells_nobody_which_tenants_there_are(mesh: RunningMesh, world: World) -> None:
    """A tenant that lets nobody sign in is as good as none."""
    name = f"silent-{token_hex(4)}"
    world.operator.tenants.create(name)
    said: list[str] = []
    with Client(mesh.url) as anybody:
        for tenant in (name, "nobody-7", "' OR 1=1 --", "a\0b"):
            try:
                said.append(f"{anybody.users.login_options(tenant)}")
            except ComitiaError as error:
                said.append(f"{error.reason} {error.message}".replace(tenant, "…"))
    assert len(set(said[:2])) == 1, said
    assert all("INTERNAL" not in line for line in said), said
