"""What was revoked is refused by every service behind the edge; what the gateway gave stays good without it."""

import json
import os
import signal
import time
from typing import Any, Final

from tests.e2e.conftest import Rest, RestAnswer, Tenant, until
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
        waiting = await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": made.secret})
    finally:
        os.kill(gateway, signal.SIGCONT)
    assert (waiting.status, waiting.reason) == (503, "SERVICE_UNAVAILABLE")
    assert "again" in waiting.body["message"]
    assert (await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": made.secret})).status == 200


async def test_the_public_keys_stand_at_the_edge(rest: Rest) -> None:
    answer = await rest.ask("GET", "/v1/jwks.json", headers={})
    assert answer.status == 200
    assert {(key["kty"], key["crv"], key["alg"], key["use"]) for key in answer.body["keys"]} == {
        ("OKP", "Ed25519", "EdDSA", "sig")
    }
