"""What was revoked is refused by every service behind the edge; what the gateway gave stays good without it."""

import asyncio
import base64
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from tests.e2e.conftest import MakeTenant, Rest, RestAnswer, Tenant, until
from tests.support.mesh import RunningMesh

#: One read of each service that answers to outside callers.
READS: Final = (
    "/v1/whoami",
    "/v1/agents",
    "/v1/sessions",
    "/v1/model-deployments",
    "/v1/policies",
    "/v1/memories",
    "/v1/tools",
    "/v1/budgets",
)


async def read(rest: Rest, path: str, token: str) -> RestAnswer:
    return await rest.ask("GET", path, headers={"authorization": f"Bearer {token}"})


async def test_a_revoked_key_is_refused_by_every_service_within_five_seconds(tenant: Tenant, mesh: RunningMesh) -> None:
    made = await tenant.client.identity.create_key("short-lived", roles=["admin"])
    answer = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
    token = answer.body["access_token"]
    assert {(await read(tenant.rest, path, token)).status for path in READS} == {200}

    mesh.comitia("key", "revoke", made.api_key.api_key_id, COMITIA_API_KEY=tenant.key, COMITIA_URL=mesh.url)

    revoked = time.monotonic()
    for path in READS:

        async def refused(path: str = path) -> RestAnswer | None:
            found = await read(tenant.rest, path, token)
            return None if found.status == 200 else found

        found = await until(refused, seconds=5)
        assert (path, found.status, found.reason) == (path, 401, "TOKEN_REVOKED")
    assert time.monotonic() - revoked < 5
    by_key = await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": made.secret})
    assert (by_key.status, by_key.reason) == (401, "API_KEY_INVALID")
    assert (await tenant.rest.ask("GET", "/v1/agents")).status == 200


async def test_a_rotated_key_changes_over_without_a_failure(tenant: Tenant, mesh: RunningMesh) -> None:
    made = await tenant.client.identity.create_key("ci", roles=["auditor"])
    of_tenant: dict[str, Any] = {"COMITIA_API_KEY": tenant.key, "COMITIA_URL": mesh.url}
    shown = mesh.comitia("key", "rotate", made.api_key.api_key_id, "--overlap", "1h", "-o", "json", **of_tenant)
    new = json.loads(shown.stdout)["secret"]
    for secret in (made.secret, new):
        assert (await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": secret})).status == 200
    listed = mesh.comitia("key", "list", **of_tenant).stdout
    assert made.api_key.api_key_id in listed
    assert "old secret until" in listed


async def test_without_an_overlap_tokens_of_the_old_secret_end_everywhere_and_runs_go_on(
    tenant: Tenant, mesh: RunningMesh
) -> None:
    made = await tenant.client.identity.create_key("leaked", roles=["admin"])
    old = await token_for(tenant.rest, made.secret)
    session_id = await waiting_session(tenant, mesh, made.secret)

    rotated = await tenant.client.identity.rotate_key(made.api_key.api_key_id)

    new = await token_for(tenant.rest, rotated.secret)
    for path in READS:

        async def refused(path: str = path) -> RestAnswer | None:
            found = await read(tenant.rest, path, old)
            return None if found.status == 200 else found

        found = await until(refused, seconds=5)
        assert (path, found.status, found.reason) == (path, 401, "TOKEN_REVOKED")
        assert (await read(tenant.rest, path, new)).status == 200
    await tenant.client.sessions.advance(session_id)
    assert (await tenant.ended(session_id)).state == session_pb2.SESSION_STATE_SUCCEEDED


async def test_revoking_one_key_of_an_account_ends_the_sessions_that_were_started_with_it(
    tenant: Tenant, mesh: RunningMesh
) -> None:
    identity = tenant.client.identity
    account = (await identity.create_service_account("nightly")).service_account_id
    one, two = [await identity.create_key("k", roles=[], service_account_id=account) for _ in range(2)]
    ending, lasting = [await waiting_session(tenant, mesh, key.secret) for key in (one, two)]

    await identity.revoke_key(one.api_key.api_key_id)

    for session_id in (ending, lasting):
        await tenant.client.sessions.advance(session_id)
    assert (await tenant.ended(lasting)).state == session_pb2.SESSION_STATE_SUCCEEDED
    assert (await tenant.ended(ending)).state == session_pb2.SESSION_STATE_FAILED


async def token_for(rest: Rest, secret: str) -> str:
    answer = await rest.ask("POST", "/v1/token", {"api_key": secret}, headers={})
    return str(answer.body["access_token"])


async def waiting_session(tenant: Tenant, mesh: RunningMesh, secret: str) -> str:
    """Starts a session of two rounds with a key, and lets the first go by."""
    if "Ada" not in [agent.name for agent in await tenant.agents()]:
        await tenant.cast("Ada")
    async with AsyncClient(mesh.url, api_key=secret) as client:
        started = await client.sessions.start(
            f"Rivers {tenant.mark}", agents=["Ada"], max_rounds=2, manual_advance=True
        )
    waiting = await tenant.until_state(started.session_id, session_pb2.SESSION_STATE_WAITING)
    assert waiting.rounds_executed == 1
    return started.session_id


async def test_without_the_gateway_issued_tokens_work_and_keys_wait_with_a_sentence(
    tenant: Tenant, mesh: RunningMesh
) -> None:
    made = await tenant.client.identity.create_key("early", roles=["admin"])
    answer = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
    token = answer.body["access_token"]
    gateway = mesh.pids()["gateway"]
    os.kill(gateway, signal.SIGSTOP)
    try:
        for path in ("/v1/agents", "/v1/tools", "/v1/budgets"):
            assert (await read(tenant.rest, path, token)).status == 200
        waiting, exchange, command = await asyncio.gather(
            tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": made.secret}),
            tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={}),
            asyncio.to_thread(mesh.comitia, "agent", "list", check=3, COMITIA_API_KEY=made.secret),
        )
        # Meanwhile the services have heard nothing for seconds, and go on with what they know.
        assert (await read(tenant.rest, "/v1/agents", token)).status == 200
    finally:
        os.kill(gateway, signal.SIGCONT)

    async def back() -> bool:
        token = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
        by_key = await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": made.secret})
        return (token.status, by_key.status) == (200, 200)

    await until(back)
    assert (waiting.status, waiting.reason) == (503, "SERVICE_UNAVAILABLE")
    assert "again" in waiting.body["message"]
    assert exchange.status in (503, 504), exchange
    assert "again" in exchange.body["message"]
    assert re.fullmatch(r"comitia: .* again.*\n", command.stderr), command.stderr


async def test_the_public_keys_stand_at_the_edge(rest: Rest) -> None:
    answer = await rest.ask("GET", "/v1/jwks.json", headers={})
    assert answer.status == 200
    assert {(key["kty"], key["crv"], key["alg"], key["use"]) for key in answer.body["keys"]} == {
        ("OKP", "Ed25519", "EdDSA", "sig")
    }


@dataclass(slots=True)
class Load:
    """Calls of one caller by REST and gRPC, one after another in each way, until they are stopped.

    Each way makes a few calls a second, so that no rate limit answers in place of what is tested.
    """

    #: When each call that succeeded was begun.
    succeeded: list[float] = field(default_factory=list[float])
    #: When each call that failed had ended, and why.
    failed: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    async def by_rest(self, ask: Callable[[], Awaitable[RestAnswer]], *, pause: float = 0.05) -> None:
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            answer = await ask()
            self._note(began, "" if answer.status == 200 else f"{answer.status} {answer.reason}")

    async def by_grpc(self, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(0.05)
            began, why = time.monotonic(), ""
            try:
                await call()
            except ComitiaError as error:
                why = error.reason
            self._note(began, why)

    def _note(self, began: float, why: str) -> None:
        if why:
            self.failed.append((time.monotonic(), why))
        else:
            self.succeeded.append(began)


@asynccontextmanager
async def loading(*calls: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Makes calls while the block runs."""
    running = [asyncio.create_task(call) for call in calls]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_key_that_is_revoked_under_load_succeeds_no_more_after_five_seconds(
    tenant: Tenant, mesh: RunningMesh
) -> None:
    made = await tenant.client.identity.create_key("busy", roles=["admin"])
    answer = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
    token, load = str(answer.body["access_token"]), Load()

    async def by_key() -> RestAnswer:
        return await tenant.rest.ask("GET", "/v1/tools", headers={"x-api-key": made.secret})

    def by_token(path: str) -> Coroutine[Any, Any, None]:
        return load.by_rest(lambda: read(tenant.rest, path, token))

    async with AsyncClient(mesh.url, access_token=token) as client:
        # Of wrong keys, an address has ten a second looked up.
        calls = [
            load.by_rest(by_key, pause=0.2),
            by_token("/v1/agents"),
            by_token("/v1/budgets"),
            by_token("/v1/sessions"),
        ]
        async with loading(*calls, load.by_grpc(client.identity.whoami)):
            await until_true(lambda: len(load.succeeded) >= 30)
            assert load.failed == []
            await tenant.client.identity.revoke_key(made.api_key.api_key_id)
            revoked = time.monotonic()
            # Five seconds after, and for a while, each way was refused again and again.
            await until_true(lambda: any(at > revoked + 5 for at, _ in load.failed), seconds=15)
            late = len(load.failed)
            await until_true(lambda: len(load.failed) >= late + 60)
    assert [began for began in load.succeeded if began > revoked + 5] == []
    assert {why for _, why in load.failed} <= {"401 API_KEY_INVALID", "401 TOKEN_REVOKED", "TOKEN_REVOKED"}


async def until_true(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    async def found() -> bool:
        return condition()

    await until(found, seconds=seconds)


def kid_of(token: str) -> str:
    """Gives the name of the key that signed a token."""
    header = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


async def test_a_signing_key_is_rotated_while_everybody_works_and_nothing_fails(
    make_tenant: MakeTenant, mesh: RunningMesh
) -> None:
    tenant = await make_tenant()
    await tenant.cast("Ada", "Bob", model="stub")
    token = (await tenant.rest.ask("POST", "/v1/token", {"api_key": tenant.key}, headers={})).body["access_token"]
    old, load, kids = kid_of(token), Load(), set[str]()

    async def exchange() -> RestAnswer:
        # A new key each time, so that its token is signed now and remembered nowhere.
        made = await tenant.client.identity.create_key("fresh", roles=["admin"])
        answer = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
        if answer.status == 200:
            kids.add(kid_of(answer.body["access_token"]))
            return await read(tenant.rest, "/v1/whoami", answer.body["access_token"])
        return answer

    async def session() -> None:
        started = await tenant.start("Ada", "Bob", max_rounds=1)
        await tenant.ended(started.session_id)

    def by_old_token(path: str) -> Coroutine[Any, Any, None]:
        return load.by_rest(lambda: read(tenant.rest, path, token))

    calls = [by_old_token("/v1/agents"), by_old_token("/v1/tools"), load.by_rest(exchange), load.by_grpc(session)]
    async with loading(*calls, load.by_rest(lambda: tenant.rest.ask("GET", "/v1/budgets"))):
        await until_true(lambda: len(load.succeeded) >= 20)
        rotated = await rotate(mesh)
        listed = await asyncio.to_thread(mesh.comitia, "signing-key", "list", "-o", "json")
        assert {old, rotated} <= {key["kid"] for key in json.loads(listed.stdout)}
        await until_true(lambda: rotated in kids, seconds=60)
        before = len(load.succeeded)
        await until_true(lambda: len(load.succeeded) >= before + 50)
    assert load.failed == []
    assert {old, rotated} <= kids


async def rotate(mesh: RunningMesh) -> str:
    """Rotates the signing key by the command line, after the rotation of another test."""

    async def rotated() -> str:
        done = await asyncio.to_thread(mesh.comitia, "signing-key", "rotate", "-o", "json", check=None)
        assert done.returncode == 0 or "ROTATION_IN_PROGRESS" in done.stderr or "RATE_LIMITED" in done.stderr
        return str(json.loads(done.stdout)["key_id"]) if done.returncode == 0 else ""

    return await until(rotated, seconds=60)
