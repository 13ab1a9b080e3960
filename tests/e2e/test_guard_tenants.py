"""Every RPC x every text in its request: another tenant's ids tell nothing, and no text breaks a service."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from comitia.tools.v1.tool_service_pb2 import Tool
from comitia_sdk.errors import ComitiaError
from comitia_sdk.sync import Client
from tests.e2e.doors import Answer, Doors, at_once, bearer, open_doors
from tests.e2e.test_every_rpc import OPERATORS, REQUESTS, WAITING, World, a_tool, provider, world
from tests.support.mesh import RunningMesh
from tests.support.oidc_provider import OidcProvider
from tests.support.public_rpcs import PUBLIC, Rpc
from tests.support.request_fields import TextField, text_fields

__all__ = ["provider", "world"]  # fixtures

#: Stands in the names of all that the owner has.
MARK: Final = "zq7owner"
#: Stands in what it holds; nobody else ever sends or reads it.
SECRET: Final = "zq7secret"
#: RPCs of a tenant's own work. Operators see every tenant; open RPCs know none.
TENANTS_OWN: Final = tuple(rpc for rpc in PUBLIC if not rpc.guard.open and not rpc.name.startswith(OPERATORS))
#: An id of each kind that can be read and that nobody has.
NOBODY: Final[Mapping[str, str]] = {
    "agent": "Nobody7",
    "agent_version": "7.7.7",
    "api_key_id": "key_01jd0000000000000000000000",
    "bundle": "nobody7@1.0.0",
    "budget_id": "budget_01jd0000000000000000000000",
    "memory_id": "memory_01jd0000000000000000000000",
    "object": "project:nobody7",
    "oidc_issuer_id": "issuer_01jd0000000000000000000000",
    "project": "nobody7",
    "request_id": "01900000-0000-7000-8000-00000000dead",
    "run_id": "run_01jd0000000000000000000000",
    "service_account_id": "svc_01jd0000000000000000000000",
    "subject": "key_01jd0000000000000000000000",
    "tenant": "nobody-7",
    "tenant_id": "tenant_01jd0000000000000000000000",
    "tool": "nobody7_tool",
    "user": "user:nobody7@example.com",
    "user_id": "user_01jd0000000000000000000000",
}
#: Names of fields that hold an id, and the kind of it. `name` and the like depend on whose name it is.
KINDS: Final[Mapping[str, str]] = {
    "actor": "subject",
    "agent_name": "agent",
    "agent_version": "agent_version",
    "agents": "agent",
    "allowed_agents": "agent",
    "api_key_id": "api_key_id",
    "budget_id": "budget_id",
    "budget_ids": "budget_id",
    "bundle": "bundle",
    "memory_id": "memory_id",
    "object": "object",
    "oidc_issuer_id": "oidc_issuer_id",
    "project": "project",
    "request_id": "request_id",
    "run_id": "run_id",
    "service_account_id": "service_account_id",
    "session_id": "run_id",
    "target": "run_id",
    "tenant": "tenant",
    "tenant_id": "tenant_id",
    "tools": "tool",
    "user": "user",
    "user_id": "user_id",
}
#: Ids that are given by the caller, of things outside, or read by nobody.
FREE: Final = frozenset({"blob_id", "client_id", "tool_call_id", "tool_id", "confirm_name", "display_name"})
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A tenant that has one of everything, all of it marked."""

    client: Client
    #: Address of the mesh.
    url: str
    key: str
    ids: Mapping[str, str]


@pytest.fixture(scope="module")
def owner(mesh: RunningMesh, world: World, provider: OidcProvider) -> Iterator[Owner]:
    walked = {tenant.name: tenant.tenant_id for tenant in world.operator.tenants.list()}
    world.operator.tenants.set_quotas(walked[world.tenant], {"rate_factor": 1000})
    name = f"{MARK}-{token_hex(4)}"
    made = world.operator.tenants.create(name)
    with Client(mesh.url, api_key=made.admin_api_key) as client:
        agent = client.agents.create(f"Ada{MARK}", description=SECRET, instructions=SECRET).name
        client.policies.apply(
            "rules: [{name: no_bows, type: keyword, keywords: [bow], action: warn}]", name=MARK, version="1.0.0"
        )
        client.tools.register(ParseDict({**a_tool(f"{MARK}_tool"), "description": f"Keeps a {SECRET}."}, Tool()))
        session = client.sessions.start(f"A bow, {SECRET}", agents=[agent], max_rounds=2, manual_advance=True)
        for event in client.sessions.watch(session.session_id):
            if event.state_changed.state == WAITING:
                break
        key = client.identity.create_key(SECRET)
        client.access.grant(f"user:{MARK}@example.com", "viewer", f"project:{MARK}")
        yield Owner(
            client=client,
            url=mesh.url,
            key=key.secret,
            ids={
                "agent": agent,
                "agent_version": "1.0.0",
                "api_key_id": key.api_key.api_key_id,
                "bundle": f"{MARK}@1.0.0",
                "budget_id": session.budget_id,
                "memory_id": client.memories.remember(f"A memory of {SECRET}.").memory_id,
                "object": f"project:{MARK}",
                "oidc_issuer_id": client.users.add_issuer(provider.issuer, MARK).oidc_issuer_id,
                "project": MARK,
                "request_id": "01900000-0000-7000-8000-00000000beef",
                "run_id": session.session_id,
                "service_account_id": client.identity.create_service_account(SECRET).service_account_id,
                "subject": key.api_key.api_key_id,
                "tenant": name,
                "tenant_id": made.tenant.tenant_id,
                "tool": f"{MARK}_tool",
                "user": f"user:{MARK}@example.com",
                "user_id": client.users.invite(f"{MARK}@example.com").user_id,
            },
        )


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


def kind_of(field: TextField) -> str | None:
    """Tells the kind of the id in a field; None when it holds none."""
    if field.name in ("name", "names"):
        service = field.rpc.name.partition("/")[0]
        return {"AgentService": "agent", "ToolService": "tool", "BundleService": "bundle"}.get(service)
    return KINDS.get(field.name)


def test_every_field_that_looks_like_an_id_has_a_kind() -> None:
    unknown = {
        str(field)
        for rpc in PUBLIC
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

    async def ask(field: TextField, text: str) -> Answer:
        rpc = field.rpc
        # What changes something is asked anew each time, so that the second is not told of the first.
        once = "request_id" in rpc.method.input_type.fields_by_name
        request = await asyncio.to_thread(good_request, rpc, world) if once else requests[rpc.name]
        return await doors.knock(rpc.path.split(".")[1], rpc, field.put(request, text), stranger)

    async def both(field: TextField, kind: str) -> tuple[Answer, Answer]:
        return await ask(field, NOBODY[kind]), await ask(field, owner.ids[kind])

    answers: list[tuple[Answer, Answer]] = []
    for one in rounds:
        answers += await at_once(4, (both(field, kind) for field, kind in one))
    wrong: list[str] = []
    for (field, kind), (nobodys, owners) in zip(cases, answers, strict=True):
        if (owners.code, owners.reason) != (nobodys.code, nobodys.reason):
            wrong.append(f"{field}: {owners.short} instead of {nobodys.short}")
        elif owners.message.replace(owner.ids[kind], "…") != nobodys.message.replace(NOBODY[kind], "…"):
            wrong.append(f"{field}: {owners.message!r} instead of {nobodys.message!r}")
        if leaked := leak(owners):
            wrong.append(f"{field}: shows {leaked}")
    assert not wrong, "\n".join(wrong)
    assert len(cases) >= 90
    still_there(owner)


def leak(answer: Answer) -> str:
    """Gives what of the owner's stands in an answer."""
    return SECRET if SECRET in answer.message or SECRET.encode() in answer.body else ""


def still_there(owner: Owner) -> None:
    """Fails if anything that the owner has was changed by somebody else."""
    ids, client = owner.ids, owner.client
    assert client.sessions.get(ids["run_id"]).state == WAITING
    assert client.memories.get(ids["memory_id"]).memory_id == ids["memory_id"]
    assert {tool.name for tool in client.tools.list()} >= {ids["tool"]}
    assert ids["user_id"] in {user.user_id for user in client.users.list()}
    assert ids["oidc_issuer_id"] in {issuer.oidc_issuer_id for issuer in client.users.list_issuers()}
    [account] = client.identity.list_service_accounts()
    assert not account.HasField("disable_time")
    with Client(owner.url, api_key=owner.key) as other:
        assert other.identity.whoami().subject == ids["api_key_id"]


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
    lists = [rpc for rpc in TENANTS_OWN if any(field.name == "page_token" for field in text_fields(rpc))]
    for rpc in lists:
        service = rpc.path.split(".")[1]
        first: Any = rpc.request_class(page_size=1)
        theirs: Any = rpc.request_class(page_size=500)
        if rpc.name == "SessionService/ListTurns":
            first.session_id, theirs.session_id = owner.ids["run_id"], world.ended_session
        own = await doors.knock(service, rpc, first, bearer(token))
        assert own.code == "OK", f"{rpc.name}: {own.short}"
        answer: Any = rpc.response_class.FromString(own.body)
        theirs.page_token = answer.next_page_token
        seen = await doors.knock(service, rpc, theirs, bearer(world.token))
        assert seen.code in ALLOWED, f"{rpc.name}: {seen.short}"
        assert not leak(seen), rpc.name
    assert len(lists) >= 14


async def test_a_request_id_of_another_tenant_is_ones_own(doors: Doors, owner: Owner, world: World) -> None:
    """The same id, the same body: each tenant does its own, and is told its own."""
    tokens = {"owner": owner.client.identity.token(), "stranger": world.token}
    with_id = [rpc for rpc in TENANTS_OWN if any(field.path == ("request_id",) for field in text_fields(rpc))]
    by_name = {rpc.name: rpc for rpc in with_id}
    asked: Mapping[str, Mapping[str, Any]] = {
        "AgentService/CreateAgent": {"agent": {"name": f"Twin{MARK}", "version": "1.0.0"}},
        "IdentityService/CreateApiKey": {"display_name": f"twin {MARK}", "roles": ["ROLE_AUDITOR"]},
        "IdentityService/CreateServiceAccount": {"display_name": f"twin {MARK}", "roles": ["ROLE_AUDITOR"]},
        "MemoryService/Remember": {"parts": [{"text": {"text": f"A twin of {MARK}."}}]},
        "UserService/InviteUser": {"email": f"twin-{MARK}@example.com", "roles": ["ROLE_AUDITOR"]},
    }
    for name, fields in asked.items():
        rpc = by_name[name]
        request = rpc.message({**fields, "request_id": "01900000-0000-7000-8000-0000000000aa"})
        bodies: dict[str, bytes] = {}
        for who, token in tokens.items():
            answer = await doors.knock(rpc.path.split(".")[1], rpc, request, bearer(token))
            assert answer.code == "OK", f"{name} of the {who}: {answer.short}"
            bodies[who] = answer.body
        if name != "AgentService/CreateAgent":  # its answer holds no id of ours
            assert bodies["owner"] != bodies["stranger"], name
    listed: Rpc = next(rpc for rpc in TENANTS_OWN if rpc.name == "AgentService/ListAgents")
    for token in tokens.values():
        answer = await doors.knock("orchestrator", listed, listed.message({"page_size": 500}), bearer(token))
        assert answer.body.count(f"Twin{MARK}".encode()) == 1


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
