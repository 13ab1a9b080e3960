"""Who is let into an application, as whom, and for how long."""

import asyncio
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest

from comitia_sdk.asgi import ComitiaAuth, Principal, Secret, require
from comitia_sdk.asgi.interface import Receive, Scope, Send
from comitia_sdk.errors import PermissionDenied, RateLimited
from services.meshkit.grpc.signed_token import SigningKey
from tests.support.asgi import FakeDoors, bearer, called, http, websocket
from tests.unit.sdk.asgi.conftest import Host

API_KEY = f"ck_{'0' * 26}_{'a' * 43}"
OTHER_TENANT = "tenant_01j0000000e008000000000002"
FORBIDDEN = PermissionDenied("your tenant is suspended", reason="TENANT_SUSPENDED")


async def status(app: ComitiaAuth, headers: list[tuple[str, str]]) -> int:
    return (await called(app, http(headers=headers))).status


async def test_a_good_token_gives_its_principal(app: ComitiaAuth, host: Host, doors: FakeDoors) -> None:
    token = doors.token(project="claims", scopes=["sessions.read"], email="ann@example.com")
    assert await status(app, bearer(token)) == 200

    principal = host.scopes[0]["comitia"]
    assert isinstance(principal, Principal)
    assert (principal.subject, principal.roles) == ("key_1", {"tenant_user"})
    assert (principal.project, principal.scopes, principal.email) == ("claims", {"sessions.read"}, "ann@example.com")
    assert principal.tenant.startswith("tenant_")
    assert principal.expires == doors.clock.now() + 900
    assert principal.token.reveal() == token
    assert token not in f"{principal} {principal!r} {principal.token} {principal.token:>10}"
    with pytest.raises(TypeError):
        pickle.dumps(principal)


async def test_without_an_identity_the_answer_is_401_in_the_shape_of_the_mesh(app: ComitiaAuth, host: Host) -> None:
    answered = await called(app, http())
    assert answered.status == 401
    assert answered.headers["www-authenticate"] == "Bearer"
    assert answered.body["code"] == 16
    assert answered.body["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert answered.reason == "TOKEN_MISSING"
    assert not host.scopes


@pytest.mark.parametrize(
    "names",
    [
        ("authorization", "authorization"),
        ("Authorization", "authorization"),
        ("AUTHORIZATION", "Authorization"),
        ("authorization", "x-api-key"),
        ("x-api-key", "x-api-key"),
        ("X-Api-Key", "x-api-key"),
    ],
)
async def test_of_two_identities_none_counts(app: ComitiaAuth, doors: FakeDoors, names: tuple[str, str]) -> None:
    doors.keys[API_KEY] = {}
    token = f"Bearer {doors.token()}"
    headers = [(name, API_KEY if name.lower() == "x-api-key" else token) for name in names]
    assert await status(app, headers) == 401
    assert await status(app, headers[:1]) == 200


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_an_api_key_is_exchanged_once_and_confirmed_every_few_seconds(
    app: ComitiaAuth, host: Host, doors: FakeDoors, header: str
) -> None:
    doors.keys[API_KEY] = {"roles": ["admin"]}
    headers = [(header, API_KEY if header == "x-api-key" else f"Bearer {API_KEY}")]
    for _ in range(50):
        assert await status(app, headers) == 200
    assert (doors.exchanges, doors.confirmations) == (1, 0)
    assert host.scopes[0]["comitia"].roles == {"admin"}
    for _ in range(10):
        doors.clock.elapsed += 4
        assert await status(app, headers) == 200
    assert (doors.exchanges, doors.confirmations) == (1, 10)
    doors.clock.elapsed += 850
    assert await status(app, headers) == 200
    assert doors.exchanges == 2, "a token that ends is replaced"


@pytest.mark.parametrize("kind", ["key", "token"])
async def test_what_is_revoked_is_refused_when_the_mesh_is_asked_again(
    app: ComitiaAuth, doors: FakeDoors, kind: str
) -> None:
    doors.keys[API_KEY] = {}
    credential = API_KEY if kind == "key" else doors.token()
    assert await status(app, bearer(credential)) == 200
    doors.revoked.add(credential)
    doors.clock.elapsed += 3
    assert await status(app, bearer(credential)) == 401
    assert await status(app, bearer(credential)) == 401


async def test_callers_at_the_same_moment_ask_the_mesh_once(app: ComitiaAuth, doors: FakeDoors) -> None:
    doors.keys[API_KEY] = {}
    assert set(await asyncio.gather(*(status(app, bearer(API_KEY)) for _ in range(100)))) == {200}
    assert (doors.exchanges, doors.key_set_fetches) == (1, 1)


async def test_a_wrong_key_is_asked_about_once_in_a_while(app: ComitiaAuth, doors: FakeDoors) -> None:
    for _ in range(50):
        assert await status(app, bearer(API_KEY)) == 401
    assert doors.exchanges == 1


@pytest.mark.parametrize("key", ["ck_", "ck_short", API_KEY + "'", API_KEY.upper(), API_KEY + "a" * 200, "other"])
async def test_what_has_not_the_form_of_a_key_is_not_asked_about(app: ComitiaAuth, doors: FakeDoors, key: str) -> None:
    assert await status(app, [("x-api-key", key)]) == 401
    assert doors.exchanges == 0


async def test_remembered_callers_are_bounded(app: ComitiaAuth, doors: FakeDoors, monkeypatch: Any) -> None:
    monkeypatch.setattr(app._identities._known, "_most", 8)
    monkeypatch.setattr(app._identities._refused, "_most", 8)
    for number in range(30):
        doors.keys[f"ck_{number:026d}_{'a' * 43}"] = {}
        assert await status(app, bearer(f"ck_{number:026d}_{'a' * 43}")) == 200
        assert await status(app, bearer(f"ck_{number:026d}_{'b' * 43}")) == 401
    assert (len(app._identities._known), len(app._identities._refused)) == (8, 8)


async def test_without_the_mesh_tokens_hold_and_keys_wait(
    app: ComitiaAuth, doors: FakeDoors, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    doors.keys[API_KEY] = {}
    known, new = doors.token(), doors.token(jti="later")
    assert await status(app, bearer(known)) == await status(app, bearer(API_KEY)) == 200
    doors.leave()
    doors.clock.elapsed += 2
    assert await status(app, bearer(API_KEY)) == 200
    doors.clock.elapsed += 60
    assert await status(app, bearer(known)) == await status(app, bearer(new)) == 200
    answered = await called(app, http(headers=bearer(API_KEY)))
    assert (answered.status, answered.reason) == (503, "MESH_UNREACHABLE")
    assert answered.headers["retry-after"] == "1"
    doors.failure = None
    doors.clock.elapsed += 1
    assert await status(app, bearer(API_KEY)) == 200


async def test_without_the_mesh_from_the_start_nobody_is_called_a_liar(app: ComitiaAuth, doors: FakeDoors) -> None:
    doors.leave()
    for _ in range(20):
        assert await status(app, bearer(doors.token())) == 503
    assert doors.key_set_fetches == 1
    doors.failure = None
    doors.clock.elapsed += 1
    assert await status(app, bearer(doors.token())) == 200


async def test_a_flood_of_unknown_key_ids_fetches_the_key_set_once_in_10_seconds(
    app: ComitiaAuth, doors: FakeDoors
) -> None:
    assert await status(app, bearer(doors.token())) == 200
    for second in range(30):
        doors.clock.elapsed += 1
        forged = [SigningKey.generate(f"access-{second}-{number}").sign({}) for number in range(20)]
        assert set(await asyncio.gather(*(status(app, bearer(token)) for token in forged))) == {401}
        assert await status(app, bearer(doors.token())) == 200
    assert doors.key_set_fetches <= 4


async def test_keys_rotate_under_callers(app: ComitiaAuth, doors: FakeDoors) -> None:
    old, old_token = doors.signing, doors.token()
    assert await status(app, bearer(old_token)) == 200
    doors.clock.elapsed += 11
    doors.signing, doors.also = SigningKey.generate("access-2"), [old]
    assert await status(app, bearer(doors.token())) == 200
    assert await status(app, bearer(old_token)) == 200
    doors.also = []
    doors.clock.elapsed += 61
    assert await status(app, bearer(doors.token())) == 200
    assert await status(app, bearer(old_token)) == 401, "a key that the mesh withdrew proves nothing"


async def test_an_empty_key_set_is_none(app: ComitiaAuth, doors: FakeDoors, monkeypatch: pytest.MonkeyPatch) -> None:
    token = doors.token()
    assert await status(app, bearer(token)) == 200

    async def empty() -> dict[str, Any]:
        return {}

    monkeypatch.setattr(app._identities._keys, "_fetch", empty)
    doors.clock.elapsed += 100
    assert await status(app, bearer(token)) == 200


async def test_what_the_mesh_forbids_is_403_and_its_limits_are_429(app: ComitiaAuth, doors: FakeDoors) -> None:
    doors.failure = FORBIDDEN
    key = await called(app, http(headers=bearer(API_KEY)))
    assert (key.status, key.reason, key.body["message"]) == (403, "TENANT_SUSPENDED", "your tenant is suspended")
    doors.failure = RateLimited("slower", reason="RATE_LIMITED")
    other = f"ck_{'1' * 26}_{'a' * 43}"
    assert (await called(app, http(headers=bearer(other)))).status == 429


async def test_only_callers_of_the_named_tenants_come_in(host: Host, doors: FakeDoors) -> None:
    def of(*tenants: str) -> ComitiaAuth:
        return ComitiaAuth(host, tenants=tenants, doors=doors, now=doors.clock.now, monotonic=doors.clock.monotonic)

    assert await status(of(), bearer(doors.token())) == 200
    own = host.scopes[0]["comitia"].tenant
    assert await status(of(own), bearer(doors.token())) == 200
    answered = await called(of(OTHER_TENANT), http(headers=bearer(doors.token())))
    assert (answered.status, answered.reason) == (401, "TOKEN_INVALID")
    with pytest.raises(ValueError, match="tenant_"):
        of("acme")


@pytest.mark.parametrize("path", ["/healthz", "/public/", "/public/a/b"])
async def test_exempt_paths_are_open_and_have_no_caller(app: ComitiaAuth, host: Host, path: str) -> None:
    scope = http(path, comitia="somebody made this up")
    assert (await called(app, scope)).status == 200
    assert host.scopes[0]["comitia"] is None
    assert (await called(app, http(f"/host{path}", root="/host"))).status == 200


@pytest.mark.parametrize(
    "path",
    """/healthz/ /healthzz /HEALTHZ /public /publicity /public/../admin /public/./admin /public//admin /public/..
    /x/public/a /public/a\\..\\admin //public/a""".split(),
)
async def test_nothing_that_resembles_an_exempt_path_is_open(app: ComitiaAuth, host: Host, path: str) -> None:
    assert (await called(app, http(path))).status == 401
    assert not host.scopes


def requiring(**needed: str) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
        require(scope, **needed)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("claims", "needed", "status", "reason"),
    [
        ({"roles": ["admin"]}, {}, 200, ""),
        ({"roles": ["admin"]}, {"role": "admin"}, 200, ""),
        ({"roles": ["tenant_user"]}, {"role": "admin"}, 403, "ROLE_MISSING"),
        ({"roles": []}, {"role": "admin"}, 403, "ROLE_MISSING"),
        ({"roles": ["admin"], "scopes": ["agents.read"]}, {}, 200, ""),
        ({"roles": ["admin"], "scopes": ["agents.read"]}, {"role": "admin"}, 403, "PERMISSION_MISSING"),
        ({"roles": ["admin"], "scopes": []}, {"role": "admin"}, 403, "PERMISSION_MISSING"),
        ({"roles": ["admin"], "scopes": ["agents.read"]}, {"role": "admin", "permission": "agents.read"}, 200, ""),
        ({"roles": ["admin"], "scopes": ["agents.read"]}, {"permission": "agents.write"}, 403, "PERMISSION_MISSING"),
    ],
)
async def test_roles_are_required(
    doors: FakeDoors, claims: dict[str, Any], needed: dict[str, str], status: int, reason: str
) -> None:
    app = ComitiaAuth(requiring(**needed), doors=doors, now=doors.clock.now, monotonic=doors.clock.monotonic)
    answered = await called(app, http(headers=bearer(doors.token(**claims))))
    assert answered.status == status
    assert status == 200 or answered.reason == reason


async def test_a_role_is_not_had_on_an_exempt_path_or_over_a_websocket(doors: FakeDoors) -> None:
    app = ComitiaAuth(
        requiring(role="admin"), exempt=["/open"], doors=doors, now=doors.clock.now, monotonic=doors.clock.monotonic
    )
    assert (await called(app, http("/open"))).status == 401
    answered = await called(app, websocket(bearer(doors.token())))
    assert answered.sent == [{"type": "websocket.close", "code": 1008, "reason": "ROLE_MISSING"}]


async def test_a_websocket_is_refused_before_it_is_accepted(app: ComitiaAuth, host: Host, doors: FakeDoors) -> None:
    closed = await called(app, websocket())
    assert closed.sent == [{"type": "websocket.close", "code": 1008, "reason": "TOKEN_MISSING"}]
    told = await called(app, websocket(bearer("x.y.z"), extensions={"websocket.http.response": {}}))
    assert [message["type"] for message in told.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (told.status, told.reason) == (401, "TOKEN_INVALID")
    gone = await called(app, websocket(), [{"type": "websocket.disconnect"}])
    assert gone.sent == []
    assert not host.scopes
    accepted = await called(app, websocket(bearer(doors.token())))
    assert accepted.sent == [{"type": "websocket.accept"}]
    assert host.scopes[0]["comitia"].subject == "key_1"


async def test_lifespan_passes_through_and_leaves_the_mesh(app: ComitiaAuth, host: Host, doors: FakeDoors) -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answered = await called(app, {"type": "lifespan"}, messages)
    assert [message["type"] for message in host.heard] == ["lifespan.startup", "lifespan.shutdown"]
    assert [message["type"] for message in answered.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert doors.closed
    with pytest.raises(ValueError, match="no kind of call"):
        await called(app, {"type": "ftp"}, [])


async def test_a_secret_is_equal_to_itself_alone() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


def test_an_application_that_only_knows_its_callers_needs_no_framework_and_no_http_client() -> None:
    asked = "import sys, comitia_sdk.asgi; print(*{'aiohttp', 'fastapi', 'starlette', 'services'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
