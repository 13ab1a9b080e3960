"""Every public RPC x every role, and x every bad token: at the edge and at the service itself."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

import pytest

from comitia_sdk.sync import Client
from services.launcher.layout import DataDir
from services.launcher.services import SERVICES
from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ROLE_PERMISSIONS
from services.meshkit.grpc.errors import from_status
from services.meshkit.grpc.signed_token import SigningKey
from tests.e2e.doors import EDGE, Answer, Doors, Headers, at_once, bearer, open_doors, shown_by
from tests.support import permission_page
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import INTERNAL, PUBLIC, Rpc
from tests.support.token_attacks import LINES, forged, senseless

GUARDED: Final = tuple(rpc for rpc in PUBLIC if not rpc.guard.open)
#: A field that is cut off. Whoever is let in is told so, before anything is done.
UNREADABLE: Final = b"\x0a\x7f"
LET_IN: Final = ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
NOT_ALLOWED: Final = ("PERMISSION_DENIED", "PERMISSION_MISSING")
PEER_NOT_ALLOWED: Final = ("PERMISSION_DENIED", "PEER_NOT_ALLOWED")
BOUND: Final = ("PERMISSION_DENIED", "BOUND_TO_PROJECT")
#: What is said to a token that proves nothing.
REFUSALS: Final = frozenset({"TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_NOT_FOR_US", "TOKEN_MISSING"})
#: Good tokens in another spelling, which Envoy takes for good; the services behind it do not.
SPELLINGS: Final = {"five parts", "base64 that is not canonical", "base64 of the other alphabet"}


@dataclass(frozen=True, slots=True)
class Roles:
    """Tokens of one caller for each role."""

    tokens: dict[Role, str]


@pytest.fixture(scope="module")
def roles(mesh: RunningMesh) -> Iterator[Roles]:
    def token(key: str) -> str:
        with Client(mesh.url, api_key=key) as one:
            return one.identity.token()

    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(f"matrix-{token_hex(4)}")
        operator.tenants.set_quotas(made.tenant.tenant_id, {"rate_factor": 1000})
        with Client(mesh.url, api_key=made.admin_api_key) as admin:
            keys = {
                role: admin.identity.create_key(role.value, roles=[role.value]).secret
                for role in (Role.AUDITOR, Role.TENANT_USER)
            }
        keys[Role.ADMIN] = made.admin_api_key
        keys[Role.OPERATOR] = operator.identity.create_key("operator", roles=["operator"]).secret
        yield Roles({role: token(key) for role, key in keys.items()})


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


async def test_every_role_may_do_what_the_reviewed_page_says_and_nothing_else(doors: Doors, roles: Roles) -> None:
    granted = permission_page.granted(permission_page.PAGE.read_text(encoding="utf-8"))
    asked = [(rpc, role, door) for rpc in GUARDED for role in roles.tokens for door in doors.of(rpc)]
    answers: list[Answer] = await at_once(
        8, (doors.knock(door, rpc, UNREADABLE, bearer(roles.tokens[role])) for rpc, role, door in asked)
    )
    wrong = [
        f"{role} {rpc.name} at {door}: {answer.short}"
        for (rpc, role, door), answer in zip(asked, answers, strict=True)
        if (answer.code, answer.reason) != (LET_IN if role in granted[rpc.guard.permission] else NOT_ALLOWED)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(asked) >= 4 * 2 * 70


async def test_a_narrowed_token_may_do_no_more_than_its_scopes(doors: Doors, mesh: RunningMesh) -> None:
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(f"narrow-{token_hex(4)}")
        operator.tenants.set_quotas(made.tenant.tenant_id, {"rate_factor": 1000})
        with Client(mesh.url, api_key=made.admin_api_key) as admin:
            narrow = admin.identity.create_key("narrow", roles=["admin"], scopes=["agents.read"]).secret
        with Client(mesh.url, api_key=narrow) as client:
            token = client.identity.token()
    for rpc in GUARDED:
        for door in doors.of(rpc):
            answer = await doors.knock(door, rpc, UNREADABLE, bearer(token))
            expected = LET_IN if rpc.guard.permission == "agents.read" else NOT_ALLOWED
            assert (answer.code, answer.reason) == expected, f"{rpc.name} at {door}: {answer.short}"


async def test_who_is_bound_to_a_project_may_call_what_is_annotated_so_and_nothing_else(
    doors: Doors, mesh: RunningMesh
) -> None:
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(f"bound-{token_hex(4)}")
        operator.tenants.set_quotas(made.tenant.tenant_id, {"rate_factor": 1000})
        with Client(mesh.url, api_key=made.admin_api_key) as admin:
            keys = {Role.ADMIN: admin.identity.create_key("bound", roles=["admin"], project="claims").secret}
        keys[Role.OPERATOR] = operator.identity.create_key("bound", roles=["operator"], project="claims").secret
    for role, key in keys.items():
        with Client(mesh.url, api_key=key) as client:
            token = client.identity.token()
        for rpc in GUARDED:
            for door in doors.of(rpc):
                answer = await doors.knock(door, rpc, UNREADABLE, bearer(token))
                expected = LET_IN if rpc.guard.of_project else BOUND
                if rpc.guard.permission not in ROLE_PERMISSIONS[role]:
                    expected = NOT_ALLOWED
                assert (answer.code, answer.reason) == expected, f"{role} {rpc.name} at {door}: {answer.short}"


def one_of_each_service() -> list[Rpc]:
    """Picks a guarded RPC of each service."""
    return list({rpc.path.split(".")[1]: rpc for rpc in reversed(GUARDED) if not rpc.streams}.values())


@dataclass(frozen=True, slots=True)
class Attacks:
    """Tokens that prove nothing, by what is wrong with them."""

    #: Not signed by this mesh.
    forged: dict[str, str]
    #: Signed by it.
    senseless: dict[str, str]


@pytest.fixture(scope="module")
def attacks(mesh: RunningMesh, roles: Roles) -> Attacks:
    """Gives tokens that prove nothing, some of them signed with the key of this very mesh."""
    data = DataDir(mesh.data_dir)
    key = SigningKey.read(data.signing_key)
    assert key.kid in data.jwks.read_text(encoding="utf-8"), "the mesh does not sign with the key in its file"
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(roles.tokens[Role.ADMIN].split(".")[1] + "=="))
    return Attacks(forged(key, claims), senseless(key, claims))


async def test_no_bad_token_opens_any_door(doors: Doors, attacks: Attacks) -> None:
    wrong: list[str] = []
    texts: dict[str, str] = {}
    for rpc in one_of_each_service():
        for door in doors.of(rpc):
            # What cannot be written into a header is no attack.
            whole = {**attacks.forged, **attacks.senseless}
            sent = {name: token for name, token in whole.items() if token.isprintable()}
            answers: list[Answer] = await at_once(
                8, (doors.knock(door, rpc, UNREADABLE, bearer(token)) for token in sent.values())
            )
            for name, answer in zip(sent, answers, strict=True):
                if answer.code != "UNAUTHENTICATED" or answer.reason not in REFUSALS:
                    wrong.append(f"{name} at {door} ({rpc.name}): {answer.short}")
                if sent[name][:30] in answer.message:
                    wrong.append(f"{name} at {door}: the token is told")
                if door == EDGE and name in attacks.forged.keys() - SPELLINGS:
                    texts[answer.message] = name
    assert not wrong, "\n".join(wrong)
    # Who forges learns nothing from the answer about what gave them away.
    assert len(texts) == 1, texts


async def test_a_good_token_in_a_bad_line_opens_no_door(doors: Doors, roles: Roles) -> None:
    token = roles.tokens[Role.ADMIN]
    lines: dict[str, Headers] = {name: (("authorization", bend(token)),) for name, bend in LINES.items()}
    lines["twice"] = (*bearer(token), *bearer(token))
    lines["another first"] = (*bearer(roles.tokens[Role.AUDITOR]), *bearer(token))
    lines["an API key beside it"] = (("authorization", "Bearer ck_x"), *bearer(token))
    wrong: list[str] = []
    for rpc in one_of_each_service():
        for door in doors.of(rpc):
            for name, headers in lines.items():
                answer = await doors.knock(door, rpc, UNREADABLE, headers)
                if answer.code != "UNAUTHENTICATED":
                    wrong.append(f"{name} at {door} ({rpc.name}): {answer.short}")
    assert not wrong, "\n".join(wrong)


async def test_a_service_may_call_what_the_reviewed_page_says_for_whom_it_says_and_nothing_else(
    doors: Doors, mesh: RunningMesh, roles: Roles
) -> None:
    """Every internal RPC x every service x every role, at the service that answers it; feeds are answered by all."""
    text = permission_page.PAGE.read_text(encoding="utf-8")
    granted, page = permission_page.granted(text), permission_page.inside(text)
    assert page.keys() == {rpc.name for rpc in INTERNAL}
    shown = {caller: shown_by(mesh, caller) for caller in SERVICES}
    asked = [
        (rpc, door, caller, role)
        for rpc in INTERNAL
        for door in doors_of(rpc)
        for caller in SERVICES
        # Who is not let in is so whatever the role.
        for role in (roles.tokens if caller in page[rpc.name].peers else (Role.ADMIN,))
    ]
    answers: list[Answer] = await at_once(
        8,
        (
            doors.knock(door, rpc, UNREADABLE, (*shown[caller], *bearer(roles.tokens[role])))
            for rpc, door, caller, role in asked
        ),
    )
    wrong: list[str] = []
    for (rpc, door, caller, role), answer in zip(asked, answers, strict=True):
        said = page[rpc.name]
        expected = LET_IN if not said.permission or role in granted[said.permission] else NOT_ALLOWED
        if caller not in said.peers:
            expected = PEER_NOT_ALLOWED
        if (answer.code, answer.reason) != expected:
            wrong.append(f"{caller} for {role} -> {rpc.name} at {door}: {answer.short}")
    assert not wrong, "\n".join(wrong)
    assert {role for _, _, _, role in asked} == set(Role)


def doors_of(rpc: Rpc) -> tuple[str, ...]:
    """Names the services that answer an internal RPC."""
    package = rpc.path.split(".")[1]
    return (package,) if package in SERVICES else tuple(SERVICES)


async def test_an_item_of_a_batch_may_do_what_the_role_in_its_own_token_may(
    doors: Doors, mesh: RunningMesh, roles: Roles
) -> None:
    """The stream is opened by a service; each item names the caller for whom it is."""
    granted = permission_page.granted(permission_page.PAGE.read_text(encoding="utf-8"))
    batches = [rpc for rpc in INTERNAL if "identities" in rpc.method.input_type.fields_by_name]
    for rpc in batches:
        for role, token in roles.tokens.items():
            request = rpc.message({"identities": {"access_tokens": [token]}, "items": [{"header": {"item_id": "7"}}]})
            [door] = doors_of(rpc)
            answer = await doors.knock(door, rpc, request, shown_by(mesh, min(rpc.guard.peers)))
            ended: Any = rpc.response_class.FromString(answer.body)
            [status] = [from_status(item.status.error) for item in ended.items]
            allowed = role in granted[rpc.guard.permission]
            assert (status.reason == "PERMISSION_MISSING") is not allowed, f"{role} {rpc.name}: {status}"
    assert len(batches) == 4


async def test_scopes_and_projects_bind_where_callers_knock_and_not_between_services(
    doors: Doors, mesh: RunningMesh
) -> None:
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(f"inside-{token_hex(4)}")
    with Client(mesh.url, api_key=made.admin_api_key) as admin:
        keys = [
            admin.identity.create_key("narrow", roles=["admin"], scopes=["agents.read"]).secret,
            admin.identity.create_key("bound", roles=["admin"], project="claims").secret,
        ]
    for key in keys:
        with Client(mesh.url, api_key=key) as client:
            token = client.identity.token()
        for rpc in INTERNAL:
            headers = (*shown_by(mesh, min(rpc.guard.peers)), *bearer(token))
            answer = await doors.knock(doors_of(rpc)[0], rpc, UNREADABLE, headers)
            assert (answer.code, answer.reason) == LET_IN, f"{rpc.name}: {answer.short}"


async def test_a_forged_grant_is_worth_nothing(doors: Doors, mesh: RunningMesh) -> None:
    rpc = next(rpc for rpc in INTERNAL if rpc.name == "IdentityService/ExchangeGrant")
    run = "run_01jd0000000000000000000000"
    said: set[tuple[str, str, str]] = set()
    for grant in (
        "grant_01jd0000000000000000000000",
        "grant_00000000000000000000000000",
        "grant_7zzzzzzzzzzzzzzzzzzzzzzzzz",
    ):
        request = rpc.message({"grant_id": grant, "run_id": run})
        answer = await doors.knock("gateway", rpc, request, shown_by(mesh, "orchestrator"))
        said.add((answer.code, answer.reason, answer.message))
    assert {(code, reason) for code, reason, _ in said} == {("UNAUTHENTICATED", "GRANT_INVALID")}
    assert len(said) == 1
    for grant in ("", "grant_", run, "' OR 1=1 --", "grant_\0", "../x", "x" * 9000):
        answer = await doors.knock(
            "gateway", rpc, rpc.message({"grant_id": grant, "run_id": run}), shown_by(mesh, "orchestrator")
        )
        assert answer.code in ("INVALID_ARGUMENT", "UNAUTHENTICATED"), f"{grant!r}: {answer.short}"
