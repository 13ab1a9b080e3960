"""Every REST path x tricks with headers and paths: never a wrong grant, never a failure of ours.

The same headers are sent as metadata to each service itself, past the edge, which would have taken some of them away.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

import pytest

from comitia_sdk.sync import Client
from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ROLE_PERMISSIONS
from tests.e2e.doors import Answer, Doors, Headers, at_once, bearer, open_doors
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import INTERNAL, PUBLIC, Rpc

GUARDED: Final = tuple(rpc for rpc in PUBLIC if not rpc.guard.open)
Lines = tuple[str, ...]
#: Statuses that let nobody in; 0 for a connection that was cut.
REFUSALS: Final = frozenset({0, 400, 401, 404, 405, 413, 414, 415, 431})
_SECONDS: Final = 15.0
_TRIES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a caller who may little, and one who may much, have in hand."""

    #: Of a role that may only work in its tenant.
    user: str
    admin: str


#: Header lines that pretend to be of the inside, beside what the caller really has. `{admin}` and `{user}` are tokens.
PRETENCES: Final[Mapping[str, Lines]] = {
    "a workload": ("comitia-workload: eyJhbGciOiJub25lIn0.e30.",),
    "a workload in capitals": ("Comitia-Workload: orchestrator", "COMITIA-WORKLOAD: gateway"),
    "a tenant": ("x-comitia-tenant: local", "X-Comitia-Roles: admin", "x-comitia-subject: root"),
    "addresses": ("x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1;proto=https"),
    "many addresses": ("x-forwarded-for: " + ", ".join(["10.0.0.1"] * 50), "x-forwarded-for: ::1"),
    "a client certificate": ('x-forwarded-client-cert: By=spiffe://mesh/gateway;Hash=0;Subject="CN=gateway"',),
    "another path": ("x-envoy-original-path: /v1/status", "x-original-url: /v1/status", "x-rewrite-url: /v1/status"),
    "the inside of Envoy": ("x-envoy-internal: true", "x-envoy-original-method: GET", "x-envoy-decorator-operation: x"),
    "retries of Envoy": ("x-envoy-retry-on: 5xx", "x-envoy-max-retries: 99", "x-envoy-upstream-rq-timeout-ms: 1"),
    "another method": ("x-http-method-override: GET", "x-http-method: GET", "x-method-override: GET"),
    "metadata of gRPC": (
        "grpc-tags-bin: AAAA",
        "grpc-timeout: 99999999H",
        "grpc-previous-rpc-attempts: 3",
        "te: trailers",
    ),
    "gRPC that is none": ("grpc-encoding: gzip", "grpc-accept-encoding: identity", "grpc-status: 0"),
    "an underscore": ("comitia_workload: orchestrator", "x_api_key: ck_x"),
    "a cookie": ("cookie: authorization=Bearer {admin}; x-api-key={admin}",),
    "another scheme": ("proxy-authorization: Bearer {admin}", "x-authorization: Bearer {admin}"),
    "host tricks": ("x-forwarded-host: 127.0.0.1", "x-forwarded-proto: https", "x-forwarded-port: 0"),
    "an upgrade": ("connection: upgrade", "upgrade: websocket"),
    "a hop taken off": ("connection: authorization, x-api-key, comitia-workload",),
    "trace injection": ("traceparent: 00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x-request-id: ' OR 1=1 --"),
    "non-ASCII": ("x-note: \u0130\u202e", "x-api-key-\u00e9: ck_x"),
    "a control character": ("x-note: a\x01b",),
    "NUL": ("x-note: a\0b",),
    "a folded line": ("x-note: a\r\n authorization: Bearer {admin}",),
    "a header without a name": (": admin",),
    "a space before the colon": ("authorization : Bearer {admin}",),
    "100 headers": tuple(f"x-{number}: x" for number in range(100)),
    "40 KB of header": ("x-note: " + "x" * 40_000,),
}
#: What takes the place of credentials: of two, none counts. Only for callers without any of their own.
DOUBLED: Final[Mapping[str, Lines]] = {
    "two tokens": ("authorization: Bearer {admin}", "authorization: Bearer {user}"),
    "the same token twice": ("authorization: Bearer {user}", "Authorization: Bearer {user}"),
    "two tokens in a line": ("authorization: Bearer {user}, Bearer {admin}",),
    "two keys": ("x-api-key: ck_a_b", "x-api-key: ck_c_d"),
    "a key of nobody": ("x-api-key: ck_01jd0000000000000000000000_" + "0" * 64,),
    "an empty key": ("x-api-key: ",),
    "two workloads": ("comitia-workload: orchestrator", "comitia-workload: gateway"),
    "an empty key and a bad token": ("x-api-key: ", "authorization: Bearer x"),
}


def bent(path: str) -> Iterator[tuple[str, str]]:
    """Spells the path of a request in ways that some servers read as the same, or as another."""
    plain, _, query = path.partition("?")
    tail = f"?{query}" if query else ""
    rest = plain.removeprefix("/v1/")
    yield "two slashes", f"//v1//{rest}{tail}"
    yield "a dot", f"/./v1/./{rest}{tail}"
    yield "up and down", f"/v1/status/../{rest}{tail}"
    yield "encoded dots", f"/v1/status/%2e%2e/{rest}{tail}"
    yield "doubly encoded dots", f"/v1/status/%252e%252e/{rest}{tail}"
    yield "an encoded slash", f"/v1%2f{rest}{tail}"
    yield "an encoded slash in capitals", f"/v1%2F{rest}{tail}"
    yield "a backslash", f"/v1\\{rest}{tail}"
    yield "an encoded backslash", f"/v1%5c{rest}{tail}"
    yield "a semicolon", f"/v1/status;/../{rest}{tail}"
    yield "a parameter", f"{plain};v=1{tail}"
    yield "a slash at the end", f"{plain}/{tail}"
    yield "NUL", f"{plain}%00{tail}"
    yield "NUL in the middle", f"/v1/status%00/../{rest}{tail}"
    yield "a line end", f"{plain}%0d%0ax-api-key:%20x{tail}"
    yield "overlong UTF-8", f"/v1/%c0%ae%c0%ae/{rest}{tail}"
    yield "half a character", f"{plain}%ff%fe{tail}"
    yield "half an escape", f"{plain}%{tail}"
    yield "capitals", f"{plain.upper()}{tail}"
    yield "an encoded letter", f"/v1/%{ord(rest[0]):02x}{rest[1:]}{tail}"
    yield "a fragment", f"{plain}#{tail}"
    yield "a whole address", f"http://127.0.0.1{plain}{tail}"
    yield "no slash", f"{plain.removeprefix('/')}{tail}"
    yield "an authority in the path", f"//evil.example{plain}{tail}"
    yield "long", f"{plain}{'/a' * 4000}{tail}"
    yield "the name of the RPC", "{rpc}"


@pytest.fixture(scope="module")
def credentials(mesh: RunningMesh) -> Credentials:
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(f"headers-{token_hex(4)}")
        operator.tenants.set_quotas(made.tenant.tenant_id, {"rate_factor": 1000})
    with Client(mesh.url, api_key=made.admin_api_key) as admin:
        key = admin.identity.create_key("user", roles=["tenant_user"]).secret
        token = admin.identity.token()
    with Client(mesh.url, api_key=key) as user:
        return Credentials(user=user.identity.token(), admin=token)


@dataclass(frozen=True, slots=True)
class Trick:
    """One request that tries to get in."""

    rpc: Rpc
    name: str
    verb: str
    path: str
    lines: Lines

    @property
    def shows_a_key(self) -> bool:
        return any("x-api-key" in line for line in self.lines)

    def __str__(self) -> str:
        return f"{self.name}: {self.verb} {self.path[:80]} ({self.rpc.name})"


async def status_of(mesh: RunningMesh, trick: Trick) -> int:
    """Sends a request; gives its status. Where only the rate was too high, it waits and tries again."""
    status = await _status_of(mesh, trick)
    for _ in range(_TRIES):
        # Who sends many wrong keys has to wait for long, and is not let in meanwhile.
        if status != 429 or trick.shows_a_key:
            break
        await asyncio.sleep(0.3)
        status = await _status_of(mesh, trick)
    return status


async def _status_of(mesh: RunningMesh, trick: Trick) -> int:
    """Sends a request byte for byte; gives the status, 0 when the edge hung up."""
    host, _, port = mesh.target.rpartition(":")
    head = [f"{trick.verb} {trick.path} HTTP/1.1", "host: mesh", "connection: close", *trick.lines]
    body = "" if trick.verb == "GET" else "{}"
    if body:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
            line = await reader.readline()
            writer.close()
    except ConnectionError:
        return 0
    found = re.match(rb"HTTP/1\.[01] (\d{3})", line)
    return int(found[1]) if found else 0


def rest_calls() -> Iterator[tuple[Rpc, str, str]]:
    """Gives every verb and path of every guarded RPC; their places name what nobody has."""
    for rpc in GUARDED:
        for verb, path in rpc.paths("nobody7"):
            yield rpc, verb, path


def lines_of(lines: Lines, credentials: Credentials) -> Lines:
    return tuple(line.replace("{admin}", credentials.admin).replace("{user}", credentials.user) for line in lines)


async def judged(mesh: RunningMesh, tricks: list[Trick], *, known: bool = False) -> list[str]:
    """Makes the requests; gives those that got in, or that broke something.

    Args:
        known: the callers are somebody, who may not do what they ask for. Nobody else is told so (403).
    """
    answers: list[int] = await at_once(24, (status_of(mesh, trick) for trick in tricks))
    refusals = REFUSALS | {403, 429} if known else REFUSALS
    return [
        f"{status} {trick}"
        for trick, status in zip(tricks, answers, strict=True)
        if status not in refusals and not (status == 429 and trick.shows_a_key)
    ]


async def test_no_header_lets_nobody_in(mesh: RunningMesh, credentials: Credentials) -> None:
    tricks = [
        Trick(rpc, name, verb, path, lines_of(lines, credentials))
        for rpc, verb, path in rest_calls()
        for name, lines in (PRETENCES | DOUBLED).items()
    ]
    wrong = await judged(mesh, tricks)
    assert not wrong, f"{len(wrong)} of {len(tricks)}\n" + "\n".join(wrong[:40])
    assert len(tricks) >= 2500


async def test_no_header_gives_a_role_more_than_it_has(mesh: RunningMesh, credentials: Credentials) -> None:
    may = ROLE_PERMISSIONS[Role.TENANT_USER]
    own = f"authorization: Bearer {credentials.user}"
    tricks = [
        Trick(rpc, name, verb, path, (own, *lines_of(lines, credentials)))
        for rpc, verb, path in rest_calls()
        if rpc.guard.permission not in may
        for name, lines in PRETENCES.items()
    ]
    wrong = await judged(mesh, tricks, known=True)
    assert not wrong, f"{len(wrong)} of {len(tricks)}\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("caller", ["nobody", "user"])
async def test_no_spelling_of_a_path_gets_around_its_guard(
    mesh: RunningMesh, credentials: Credentials, caller: str
) -> None:
    own: Lines = () if caller == "nobody" else (f"authorization: Bearer {credentials.user}",)
    may = ROLE_PERMISSIONS[Role.TENANT_USER] if own else frozenset[str]()
    tricks = [
        Trick(rpc, name, verb, bend.replace("{rpc}", rpc.path), own)
        for rpc, verb, path in rest_calls()
        if rpc.guard.permission not in may
        for name, bend in bent(path)
    ]
    wrong = await judged(mesh, tricks, known=bool(own))
    assert not wrong, f"{len(wrong)} of {len(tricks)}\n" + "\n".join(wrong[:40])


async def test_nothing_that_a_caller_may_do_fails_on_our_side(mesh: RunningMesh, credentials: Credentials) -> None:
    """The same tricks by somebody who may read: an answer or a refusal, whatever is sent."""
    may = ROLE_PERMISSIONS[Role.TENANT_USER]
    own = f"authorization: Bearer {credentials.user}"
    reads = [
        (rpc, path)
        for rpc, verb, path in rest_calls()
        # A watch says nothing before there is something to see.
        if verb == "GET" and rpc.guard.permission in may and not rpc.streams
    ]
    tricks = [
        Trick(rpc, name, "GET", path, (own, *lines_of(lines, credentials)))
        for rpc, path in reads
        for name, lines in PRETENCES.items()
    ]
    tricks += [
        Trick(rpc, name, "GET", bend.replace("{rpc}", rpc.path), (own,))
        for rpc, path in reads
        for name, bend in bent(path)
    ]
    answers: list[int] = await at_once(24, (status_of(mesh, trick) for trick in tricks))
    wrong = [f"{status} {trick}" for trick, status in zip(tricks, answers, strict=True) if status >= 500]
    assert not wrong, f"{len(wrong)} of {len(tricks)}\n" + "\n".join(wrong[:40])
    assert answers.count(200) > 100


#: A field that is cut off: who gets as far as its being read was let in.
UNREADABLE: Final = b"\x0a\x7f"
#: What HTTP/2 or gRPC gives a meaning of their own, so that no client can send it as metadata.
_OF_THE_TRANSPORT: Final = frozenset({"connection", "upgrade", "te", "host", "grpc-encoding", "grpc-timeout"})
_NAME: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)


def metadata_of(lines: Lines) -> Headers:
    """Gives those lines that can be metadata: names are small there, and values can be printed."""
    found: list[tuple[str, str]] = []
    for line in lines:
        name, _, value = line.partition(": ")
        name = name.lower()
        plain = value.isascii() and value.isprintable() and not name.endswith("-bin")
        if _NAME.fullmatch(name) and plain and name not in _OF_THE_TRANSPORT:
            found.append((name, value))
    return tuple(found)


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


async def test_no_metadata_opens_the_own_door_of_a_service(doors: Doors, credentials: Credentials) -> None:
    may = ROLE_PERMISSIONS[Role.TENANT_USER]
    tricks = {name: metadata_of(lines_of(lines, credentials)) for name, lines in (PRETENCES | DOUBLED).items()}
    tricks = {name: headers for name, headers in tricks.items() if headers}
    pretences = {name: headers for name, headers in tricks.items() if name in PRETENCES}
    asked: list[tuple[Rpc, str, str, Headers]] = []
    for rpc in GUARDED:
        asked += [(rpc, "nobody", name, headers) for name, headers in tricks.items()]
        if rpc.guard.permission not in may:
            own = bearer(credentials.user)
            asked += [(rpc, "a user", name, (*own, *headers)) for name, headers in pretences.items()]
    for rpc in INTERNAL:
        own = bearer(credentials.admin)
        asked += [(rpc, "an administrator", name, (*own, *headers)) for name, headers in pretences.items()]
        asked += [(rpc, "nobody", name, headers) for name, headers in tricks.items()]

    def door(rpc: Rpc) -> str:
        package = rpc.path.split(".")[1]
        return package if package in doors.channels else "gateway"

    answers: list[Answer] = await at_once(
        16, (doors.knock(door(rpc), rpc, UNREADABLE, headers) for rpc, _, _, headers in asked)
    )
    wrong = [
        f"{name} by {who} at {door(rpc)} ({rpc.name}): {answer.short}"
        for (rpc, who, name, _), answer in zip(asked, answers, strict=True)
        if answer.code not in ("UNAUTHENTICATED", "PERMISSION_DENIED")
        or (who == "nobody" and not rpc.guard.peers and answer.code != "UNAUTHENTICATED")
    ]
    assert not wrong, f"{len(wrong)} of {len(asked)}\n" + "\n".join(wrong[:40])
    assert len(tricks) >= 25
