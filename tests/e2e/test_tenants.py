"""What a tenant may use, its rules, its suspension and its end, through a whole mesh."""

import asyncio
import json
from itertools import count
from typing import Any

import aiohttp
import asyncpg
import pytest

from comitia.gateway.v1 import tenant_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from services.meshkit.core.ids import to_uuid
from tests.e2e.conftest import MakeTenant, Rest, Tenant, until
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected

CANARY = "canarybird"


async def id_of(operator: AsyncClient, tenant: Tenant) -> str:
    found = [one.tenant_id async for one in operator.tenants.list() if one.name == tenant.name]
    return found[0]


async def reason_of(call: Any) -> str:
    """Gives the reason of a refusal, empty when there is none."""
    try:
        await call
    except ComitiaError as error:
        return error.reason
    return ""


async def refused_with(reason: str, make: Any) -> ComitiaError:
    """Tries until services have heard, and gives the refusal."""

    async def there() -> ComitiaError | None:
        try:
            await make()
        except ComitiaError as error:
            return error if error.reason == reason else None
        return None

    return await until(there, seconds=10)


async def test_agents_are_counted_exactly_however_many_are_made_at_once(client: AsyncClient, tenant: Tenant) -> None:
    tenant_id = await id_of(client, tenant)
    await client.tenants.set_quotas(tenant_id, {"max_agents": 3})
    names = (f"Agent{number}" for number in range(1_000))

    async def one_more() -> None:
        await asyncio.gather(*(tenant.client.agents.create(next(names)) for _ in range(5)))

    refusal = await refused_with("QUOTA_EXCEEDED", one_more)
    assert {name: refusal.metadata[name] for name in ("quota", "limit")} == {"quota": "max_agents", "limit": "3"}
    before = len(await tenant.agents())
    await asyncio.gather(*(reason_of(tenant.client.agents.create(next(names))) for _ in range(8)))
    assert len(await tenant.agents()) == max(before, 3)
    await client.tenants.set_quotas(tenant_id, {"max_agents": 0})
    await until(lambda: _lets(tenant.client.agents.create("Last")), seconds=10)


async def _lets(call: Any) -> bool:
    return await reason_of(call) == ""


async def test_runs_in_progress_are_counted_exactly_and_make_room_when_they_end(
    client: AsyncClient, tenant: Tenant
) -> None:
    await tenant.cast("Ada")
    await client.tenants.set_quotas(await id_of(client, tenant), {"max_concurrent_runs": 2, "max_agents": 1})
    # Who counts the runs has heard of both quotas once it heeds this one; what runs before counts as well.
    names = (f"Agent{number}" for number in count())
    await refused_with("QUOTA_EXCEEDED", lambda: tenant.client.agents.create(next(names)))
    wish: dict[str, Any] = {"max_rounds": 2, "manual_advance": True}
    outcomes = await asyncio.gather(*(tenant.start("Ada", **wish) for _ in range(8)), return_exceptions=True)
    started = [one for one in outcomes if isinstance(one, session_pb2.Session)]
    reasons = {one.reason for one in outcomes if isinstance(one, ComitiaError)}
    assert (len(started), reasons) == (2, {"QUOTA_EXCEEDED"})
    await tenant.client.sessions.cancel(started[0].session_id)
    await tenant.until_state(started[0].session_id, session_pb2.SESSION_STATE_CANCELLED)
    await tenant.start("Ada", **wish)
    assert await reason_of(tenant.start("Ada", **wish)) == "QUOTA_EXCEEDED"


async def test_a_tenant_is_patched_by_rest_with_a_mask_and_nobody_sets_its_state(
    client: AsyncClient, tenant: Tenant, rest: Rest
) -> None:
    path = f"/v1/tenants/{await id_of(client, tenant)}"
    body = {"quotas": {"max_agents": "4", "max_workflows": "5"}, "residency_region": "eu"}
    masked = await rest.ask("PATCH", f"{path}?update_mask=quotas.max_agents", body)
    changed = masked.body["tenant"]
    assert (masked.status, changed["quotas"]["max_agents"], changed["residency_region"]) == (200, "4", "")
    assert changed["quotas"]["max_workflows"] == "0"
    for forbidden in ("state", "name", "tenant_id", "etag"):
        refused = await rest.ask("PATCH", f"{path}?update_mask={forbidden}", {"state": "TENANT_STATE_SUSPENDED"})
        assert (refused.status, refused.field) == (400, "update_mask")
    stale = await rest.ask("PATCH", path, {**body, "etag": "1-0"})
    assert (stale.status, stale.reason) == (409, "ETAG_STALE")
    assert (await client.tenants.get(changed["tenant_id"])).state == tenant_pb2.TENANT_STATE_ACTIVE


async def test_the_budget_follows_the_quota_of_cost(client: AsyncClient, tenant: Tenant) -> None:
    tenant_id = await id_of(client, tenant)
    await client.tenants.set_quotas(tenant_id, {"max_cost_nano_usd": 5_000})

    async def limited() -> bool:
        return (await tenant.client.costs.budget()).limit_nano_usd == 5_000

    await until(limited, seconds=10)
    with pytest.raises(ComitiaError) as refused:
        await tenant.client.costs.set_limit(5_001)
    assert (refused.value.reason, refused.value.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_cost_nano_usd")


async def test_a_tenant_calls_the_tools_that_its_rules_allow(tenant: Tenant) -> None:
    tools = tenant.client.tools

    async def compute() -> Any:
        return await tools.invoke("calculator", {"expression": "6*7"})

    await tenant.client.tenants.set_security_policy(allowed_tools=["http_get"])
    refusal = await refused_with("TOOL_NOT_ALLOWED", compute)
    assert refusal.metadata["tool"].startswith("calculator@")
    await tenant.client.tenants.set_security_policy(allowed_tools=["calculator"])
    await until(lambda: _lets(compute()), seconds=10)
    await tenant.client.tenants.set_security_policy(tools_forbidden=True)
    await refused_with("TOOL_NOT_ALLOWED", compute)


async def test_tools_that_the_rules_forbid_are_offered_to_nobody_and_shown_to_who_asks_why(tenant: Tenant) -> None:
    tools = tenant.client.tools
    for version in ("1.0.0", "1.1.0"):
        calculator = await tools.get("calculator")
        calculator.name, calculator.version = "adder", version
        await tools.register(calculator)
    await tenant.cast("Ada", tools=["adder", "calculator", "http_get"])

    async def there(expected: list[str]) -> bool:
        return [f"{tool.name}@{tool.version}" async for tool in tools.list(page_size=1)] == expected

    async def told_in_a_turn() -> list[str]:
        session = await tenant.start("Ada", max_rounds=1)
        await tenant.ended(session.session_id)
        asked = [call["body"] for call in tenant.provider.meter(tenant.mark)["calls"] if "messages" in call["body"]]
        return [tool["function"]["name"] for tool in asked[-1].get("tools", [])]

    await tenant.client.tenants.set_security_policy(allowed_tools=["adder"])
    await until(lambda: there(["adder@1.0.0", "adder@1.1.0"]), seconds=10)
    assert [match.tool.name for match in await tools.search("calculate, fetch or add")] == ["adder"]
    assert await told_in_a_turn() == ["adder"]
    everything = {found.name: found.forbidden async for found in tools.list(show_forbidden=True, page_size=1)}
    assert everything == {"adder": False, "calculator": True, "http_get": True}
    assert (await tools.get("calculator")).forbidden
    assert not (await tools.get("adder")).forbidden

    await tenant.client.tenants.set_security_policy(tools_forbidden=True)
    await until(lambda: there([]), seconds=10)
    assert await tools.search("calculate, fetch or add") == []
    assert await told_in_a_turn() == []


async def test_who_calls_through_the_edge_is_where_the_edge_saw_it(tenant: Tenant) -> None:
    with pytest.raises(ComitiaError) as locked_out:
        await tenant.client.tenants.set_security_policy(allowed_networks=["203.0.113.0/24"])
    assert locked_out.value.reason == "LOCKED_OUT"
    # For a caller on its own machine the edge writes an address of that machine.
    seen = locked_out.value.metadata["address"]
    headers = {"x-api-key": tenant.key, "x-forwarded-for": "203.0.113.5"}
    body = {"security_policy": {"allowed_networks": ["203.0.113.0/24"]}}
    forged = await tenant.rest.ask("PUT", "/v1/tenant/security-policy", body, headers=headers)
    assert (forged.status, forged.reason) == (400, "LOCKED_OUT")
    await tenant.client.tenants.set_security_policy(allowed_networks=[f"{seen}/32"])
    await tenant.cast("Ada")
    session = await tenant.start("Ada", max_rounds=1)
    assert (await tenant.ended(session.session_id)).state == session_pb2.SESSION_STATE_SUCCEEDED


async def test_runs_of_a_suspended_tenant_wait_and_go_on(
    mesh: RunningMesh, client: AsyncClient, tenant: Tenant
) -> None:
    tenant_id = await id_of(client, tenant)
    await tenant.cast("Ada")
    tenant.says("One.", held=tenant.mark)
    session = await tenant.start("Ada", max_rounds=3)

    async def asked() -> bool:
        return bool(tenant.provider.meter(tenant.mark)["calls"])

    async def parked() -> bool:
        # The tenant's own doors are shut.
        async with connected(mesh.data_dir, "orchestrator") as database:
            run_id = to_uuid(session.session_id, "run")
            state = await database.fetchval("SELECT state FROM run WHERE run_id = $1", run_id)
        return state == session_pb2.SESSION_STATE_PARKED

    await until(asked)
    await client.tenants.suspend(tenant_id, reason="unpaid")
    # Whatever the run asks next is asked of one of these.
    for door in (
        lambda: tenant.client.sessions.get(session.session_id),
        lambda: tenant.client.memories.recall("rivers"),
        tenant.client.models.list,
    ):
        assert "suspended" in str(await refused_with("TENANT_SUSPENDED", door))
    tenant.provider.release(tenant.mark)
    await until(parked, seconds=40)
    await client.tenants.resume(tenant_id)
    await until(lambda: _lets(tenant.client.sessions.get(session.session_id)), seconds=10)
    reasons: set[str] = set()
    async with asyncio.timeout(40):
        async for event in tenant.client.sessions.watch(session.session_id):
            if event.WhichOneof("event") == "state_changed":
                reasons.add(event.state_changed.state_reason)
            if event.WhichOneof("event") == "session_ended":
                assert event.session_ended.state == session_pb2.SESSION_STATE_SUCCEEDED
                break
    assert "TENANT_SUSPENDED" in reasons
    assert len(await tenant.turns(session.session_id)) == 3


async def test_an_erased_tenant_leaves_nothing_to_read_and_others_untouched(
    mesh: RunningMesh, client: AsyncClient, make_tenant: MakeTenant
) -> None:
    gone, stays = await make_tenant(), await make_tenant()
    for tenant in (gone, stays):
        await fill(tenant)
    tenant_id = await id_of(client, gone)
    plan = {(step.service, step.store): step for step in (await client.tenants.plan_deletion(tenant_id)).plan}
    assert {service for service, _ in plan} == set(SERVICES)
    assert plan["memory", "memory"].count > 0
    assert ("memory", "vectors") in plan
    assert plan["orchestrator", "journal"].count > 0
    assert await stored(mesh, f"{CANARY}{gone.mark}")
    await client.tenants.delete(tenant_id, confirm_name=gone.name)
    await refused_with("TENANT_SUSPENDED", gone.client.identity.whoami)

    async def erased() -> Any:
        erasure = await client.tenants.erasure(tenant_id)
        return erasure if erasure.HasField("end_time") else None

    erasure = await until(erased, seconds=60)
    assert (set(erasure.done_services), list(erasure.pending_services)) == (set(SERVICES), [])
    assert (await client.tenants.get(tenant_id)).state == tenant_pb2.TENANT_STATE_DELETED
    assert await stored(mesh, f"{CANARY}{gone.mark}") == []
    assert await stored(mesh, f"{CANARY}{stays.mark}")
    assert [agent.name for agent in await stays.agents()] == [f"{CANARY}{stays.mark}"]
    assert [memory async for memory in stays.client.memories.list()]
    assert await reason_of(client.tenants.create(gone.name)) == "ALREADY_EXISTS"
    async with AsyncClient(mesh.url, api_key=gone.key) as late:
        assert await reason_of(late.identity.whoami()) in ("API_KEY_INVALID", "TENANT_SUSPENDED")


async def fill(tenant: Tenant) -> None:
    """Leaves the canary wherever a tenant can leave words."""
    word = f"{CANARY}{tenant.mark}"
    await tenant.cast(word, instructions=f"You are {word}.", semantic_matches=3)
    await tenant.client.policies.apply(
        f"rules: [{{name: {word}, type: keyword, keywords: [{word}], action: warn}}]", name=word, version="1.0.0"
    )
    await tenant.client.identity.create_key(word)
    await tenant.client.users.invite(f"{word}@example.com")
    await tenant.client.access.grant(f"user:{word}", "viewer", f"project:{word}")
    await tenant.client.tenants.set_security_policy(allowed_hosts=[f"{word}.example.com"])
    await tenant.client.memories.remember(f"{word} was here", tags=[word])
    tenant.says(f"{word} says hello.")
    session = await tenant.start(word, about=word, max_rounds=1, metadata={"note": word})
    ended = await tenant.ended(session.session_id)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED


async def stored(mesh: RunningMesh, word: str) -> list[str]:
    """Names the tables in which a word stands, as text or as bytes, in whatever a maintainer can read."""
    found: list[str] = []
    for service in SERVICES:
        async with connected(mesh.data_dir, service) as database:
            tables = await database.fetch(
                "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = 'public'"
                " AND has_table_privilege(c.oid, 'SELECT') AND c.relname NOT LIKE 'audit%'"
            )
            names = [table["name"] for table in tables]
            found += [f"{service}.{name}" for name in names if await _holds(database, name, word)]
    return found


async def _holds(database: asyncpg.Connection, table: str, word: str) -> bool:
    return await database.fetchval(
        f"SELECT EXISTS (SELECT FROM {table} AS one WHERE one::text ILIKE $1 OR one::text ILIKE $2)",
        f"%{word}%",
        f"%{word.encode().hex()}%",
    )


def test_an_operator_cares_for_tenants_on_the_command_line(mesh: RunningMesh) -> None:
    made = json.loads(mesh.comitia("tenant", "create", "cared-for", "--region", "eu", "-o", "json").stdout)
    assert "cared-for" in mesh.comitia("tenant", "list").stdout
    limits = ("--agents", "20", "--runs", "5", "--storage", "2GB", "--cost", "100")
    changed = mesh.comitia("tenant", "set-quota", "cared-for", *limits).stdout
    for told in ("at most 20", "at most 2,000,000,000 bytes", "at most $100", "eu"):
        assert told in " ".join(changed.split())
    assert "at least one quota" in mesh.comitia("tenant", "set-quota", "cared-for", check=2).stderr
    assert "suspended" in mesh.comitia("tenant", "suspend", "cared-for", "--reason", "unpaid").stdout
    assert "active" in mesh.comitia("tenant", "resume", "cared-for").stdout
    assert "any" in mesh.comitia("tenant", "set-region", "cared-for").stdout
    own: dict[str, Any] = {"COMITIA_API_KEY": made["admin_api_key"], "COMITIA_URL": mesh.url}
    rules = ("--tool", "calculator", "--host", "*.example.com", "--audit-level", "refusals")
    assert "*.example.com" in mesh.comitia("tenant", "policy", "set", *rules, **own).stdout
    assert "calculator" in mesh.comitia("tenant", "policy", "show", **own).stdout
    assert "refusals" in mesh.comitia("tenant", "show", **own).stdout
    assert "every public one" in mesh.comitia("tenant", "policy", "set", **own).stdout
    plan = mesh.comitia("tenant", "delete", "cared-for", "--plan").stdout
    assert "journal" in plan
    assert "cost_event" in plan
    wrong = mesh.comitia("tenant", "delete", "cared-for", "--confirm", "other", check=2)
    assert "is not the name of the tenant" in wrong.stderr
    assert "erased at" in mesh.comitia("tenant", "delete", "cared-for", "--confirm", "cared-for", "--wait").stdout
    assert "erased at" in mesh.comitia("tenant", "erasure", made["tenant"]["tenant_id"]).stdout
    assert "deleted" in mesh.comitia("tenant", "show", "cared-for").stdout


async def test_no_metric_names_a_tenant_or_what_it_has(mesh: RunningMesh, tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session = await tenant.start("Ada", max_rounds=1)
    await tenant.ended(session.session_id)
    me = await tenant.client.identity.whoami()
    told = {
        me.tenant_id,
        str(to_uuid(me.tenant_id, "tenant")),
        me.subject,
        tenant.name,
        tenant.mark,
        session.session_id,
    }
    async with aiohttp.ClientSession() as http:
        ports = read_state(DataDir(mesh.data_dir))["ports"]
        for port in [ports[metrics_port_name(service)] for service in SERVICES]:
            async with http.get(f"http://127.0.0.1:{port}/metrics") as page:
                text = await page.text()
            assert not [name for name in told if name in text], port
            assert "comitia_" in text


@pytest.mark.parametrize("forged", ["*", ">", "run_*", "a.b", "run_\u0000", "../x"])
async def test_no_wildcard_listens_to_the_live_text_of_others(tenant: Tenant, forged: str) -> None:
    watch = tenant.client.sessions.watch(forged)
    with pytest.raises(ComitiaError) as refused:
        await anext(watch)
    assert refused.value.reason in ("INVALID_FIELD", "SESSION_NOT_FOUND")
