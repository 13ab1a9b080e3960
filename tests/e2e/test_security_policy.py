"""What a tenant asks for its own protection holds at every service: where content stays, who calls, what is audited."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError, FailedPrecondition, PermissionDenied
from tests.e2e.conftest import Tenant, until
from tests.e2e.doors import EDGE, Doors, bearer, open_doors, shown_by
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import PUBLIC, Rpc

#: Models of the fake provider, which stands in `eu-west`: see `conftest.mesh`.
GENERATES: Final = "openai/gpt-4o-mini"
EMBEDS: Final = "openai/text-embedding-3-small"
#: A read of each service but the gateway, which learns of the rules first.
READS: Final = (
    "AgentService/ListAgents",
    "BudgetService/ListBudgets",
    "BundleService/ListBundles",
    "MemoryService/ListMemories",
    "ModelService/ListModels",
    "ToolService/ListTools",
)


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    async with open_doors(mesh) as opened:
        yield opened


async def reason_of(call: Any) -> str:
    """Gives the reason of a refusal, empty when there is none."""
    try:
        await call
    except ComitiaError as error:
        return error.reason
    return ""


async def test_content_that_must_stay_in_a_region_reaches_no_model_of_another(
    client: AsyncClient, tenant: Tenant
) -> None:
    models, tenant_id = tenant.client.models, (await tenant.client.tenants.own()).tenant_id

    async def refused() -> bool:
        return await reason_of(models.generate(f"Before {tenant.mark}", model=GENERATES)) == "NO_MODEL_CONFIGURED"

    await client.tenants.set_region(tenant_id, "us")
    await until(refused, seconds=10)
    asked = len(tenant.provider.meter(tenant.mark)["calls"])
    with pytest.raises(FailedPrecondition, match="no model runs in the region 'us'"):
        await models.generate(f"Elsewhere {tenant.mark}", model=GENERATES)
    with pytest.raises(FailedPrecondition, match="no model runs in the region 'us'"):
        await models.embed([f"Elsewhere {tenant.mark}"], model=EMBEDS)
    with pytest.raises(FailedPrecondition, match="no model runs in the region 'us'"):
        _ = [event async for event in models.stream(f"Elsewhere {tenant.mark}", model=GENERATES)]
    # Of the chain those inside the mesh are left, if they run.
    await reason_of(models.generate(f"Elsewhere {tenant.mark}"))
    assert len(tenant.provider.meter(tenant.mark)["calls"]) == asked

    await client.tenants.set_region(tenant_id, "eu")
    await until(lambda: _lets(models.generate(f"At home {tenant.mark}", model=GENERATES)), seconds=10)
    assert len(tenant.provider.meter(tenant.mark)["calls"]) == asked + 1


async def _lets(call: Any) -> bool:
    return await reason_of(call) == ""


async def test_who_calls_from_another_network_is_refused_by_every_service(
    mesh: RunningMesh, doors: Doors, tenant: Tenant
) -> None:
    with pytest.raises(ComitiaError) as locked_out:
        await tenant.client.tenants.set_security_policy(allowed_networks=["203.0.113.0/24"])
    here = f"{locked_out.value.metadata['address']}/32"
    await tenant.client.tenants.set_security_policy(allowed_networks=[here, "203.0.113.0/24"])
    own = bearer(await tenant.client.identity.token())
    inside, outside = (("x-forwarded-for", f"198.51.100.7, {host}") for host in ("203.0.113.5", "198.51.100.7"))
    for rpc in (rpc for rpc in PUBLIC if rpc.name in READS):
        _, service = doors.of(rpc)

        async def refused(service: str = service, rpc: Rpc = rpc) -> bool:
            answer = await doors.knock(service, rpc, rpc.message({}), (*own, outside))
            return (answer.code, answer.reason) == ("PERMISSION_DENIED", "NETWORK_NOT_ALLOWED")

        await until(refused, seconds=10)
        for door, headers in ((service, (*own, inside)), (EDGE, own), (EDGE, (*own, outside))):
            answer = await doors.knock(door, rpc, rpc.message({}), headers)
            assert answer.code == "OK", f"{rpc.name} at {door} with {headers[1:]}: {answer.short}"
        # The caller whom a service acts for was let in where they came in.
        answer = await doors.knock(service, rpc, rpc.message({}), (*own, *shown_by(mesh, "orchestrator"), outside))
        assert answer.code == "OK", f"{rpc.name}: {answer.short}"


async def test_refused_reads_are_audited_for_those_who_ask_for_it(mesh: RunningMesh, tenant: Tenant) -> None:
    made = await tenant.client.identity.create_key("reader", roles=["tenant_user"])
    reader_id = made.api_key.api_key_id
    async with AsyncClient(mesh.url, api_key=made.secret) as reader:

        async def refused_read() -> None:
            with pytest.raises(PermissionDenied):
                _ = [key async for key in reader.identity.list_keys()]

        async def refused_entries() -> list[str]:
            return [one.entry.action async for one in tenant.client.audit.list() if one.entry.actor == reader_id]

        await refused_read()
        with pytest.raises(PermissionDenied):
            await reader.identity.create_key("more")
        # The mutation came later and is there, so the read before it never will be.
        assert await until(refused_entries) == ["api_keys.write"]

        await tenant.client.tenants.set_security_policy(audit_level="refusals")

        async def shown() -> bool:
            await refused_read()
            return "api_keys.read" in await refused_entries()

        await until(shown)
