"""A repeated request is told the first answer, whatever became of the thing meanwhile, and does nothing to it."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import grpc.aio
import pytest

from comitia_sdk.errors import FailedPrecondition
from tests.e2e.test_every_rpc import REQUESTS, RULES, World, credentials, provider, world
from tests.e2e.test_repeats import CHANGING, OF_THE_REPEAT, Caller, without
from tests.support.mesh import RunningMesh

__all__ = ["provider", "world"]  # fixtures


def a_tool_of_a_later_version(world: World, answer: Any) -> None:
    later = world.client.tools.get(answer.tool.name)
    later.version, later.description = "9.0.0", "Computes otherwise."
    world.client.tools.register(later)


def an_agent_of_a_later_version(world: World, answer: Any) -> None:
    world.client.agents.create(answer.agent.name, version="9.0.0", description="another")


def a_workflow_of_a_later_version(world: World, answer: Any) -> None:
    later = world.client.workflows.get(answer.workflow.name)
    later.version = "9.0.0"
    world.client.workflows.create(later)


def another_bundle(world: World, _: Any) -> None:
    world.client.policies.apply(RULES, name=world.fresh("bundle"), version="1.0.0")


def other_quotas(world: World, answer: Any) -> None:
    world.operator.tenants.set_quotas(answer.tenant.tenant_id, {"max_agents": 200})


def suspended(world: World, answer: Any) -> None:
    world.operator.tenants.suspend(answer.tenant.tenant_id, reason="meanwhile")


def resumed(world: World, answer: Any) -> None:
    world.operator.tenants.resume(answer.tenant.tenant_id)


def no_relation(world: World, _: Any) -> None:
    for one in list(world.client.access.relations()):
        if one.user == "user:anna":
            world.client.access.revoke(one.user, one.relation, one.object)


def another_model(world: World, answer: Any) -> None:
    model = world.client.access.model().model
    assert world.client.access.set_model(f"{model}\n# {world.fresh('meanwhile')}\n") != answer.etag


def another_price(world: World, answer: Any) -> None:
    model = answer.changes[0].after[0].model
    head = "provider,model,start_time,input_usd_per_million,output_usd_per_million"
    listed = f"{head}\nwalk,{model},2026-01-01,3,4\n"
    world.operator.costs.import_prices(listed, form="csv", source="a later walk", apply=True)


def ended(world: World, session_id: str) -> None:
    with suppress(FailedPrecondition):  # it may have ended by itself
        world.client.sessions.cancel(session_id)
    for _ in world.client.sessions.watch(session_id):
        pass


def invited_again(world: World, answer: Any) -> None:
    world.client.users.invite(answer.user.email)


def added_again(world: World, _: Any) -> None:
    world.client.users.add_issuer(world.issuer, f"client-{world.mark}-{next(world.numbers) - 1}")


#: What may happen to a thing after the first answer, by RPC. What else changes something leaves nothing that changes;
#: and what a memory held is gone once it is forgotten, for those who ask again, too.
MEANWHILE: Final[Mapping[str, Callable[[World, Any], object]]] = {
    "AccessService/WriteAuthorizationModel": another_model,
    "AccessService/WriteRelations": no_relation,
    "AgentService/CreateAgent": an_agent_of_a_later_version,
    "BudgetService/RemoveBudget": lambda world, it: world.client.costs.set_budget(1, project=it.budget.name),
    "BudgetService/SetBudget": lambda world, it: world.client.costs.remove_budget(it.budget.budget_id),
    "BudgetService/SetBudgetLimit": lambda world, _: world.client.costs.set_limit(40_000_000_000),
    "BundleService/ActivateBundle": another_bundle,
    "BundleService/CreateBundle": lambda world, answer: world.client.policies.activate(
        f"{answer.bundle.name}@{answer.bundle.version}"
    ),
    "ForecastService/SetSpikeRule": lambda world, _: world.client.forecasts.set_spike_rule("tenant", 120),
    "IdentityService/CreateApiKey": lambda world, it: world.client.identity.revoke_key(it.api_key.api_key_id),
    "IdentityService/CreateServiceAccount": lambda world, it: world.client.identity.disable_service_account(
        it.service_account.service_account_id
    ),
    "IdentityService/RotateApiKey": lambda world, it: world.client.identity.revoke_key(it.api_key.api_key_id),
    "ModelBatchService/CancelModelBatch": lambda world, it: list(
        world.client.batches.watch(it.batch.batch_id, every=0.2)
    ),
    "ModelBatchService/CreateModelBatch": lambda world, it: world.client.batches.cancel(it.batch.batch_id),
    "ModelService/AddModelVersion": lambda world, it: world.client.models.retire(it.deployment.deployment_id),
    "ModelService/CheckModelVersion": lambda world, _: world.client.models.set_route(world.fresh("route"), ["stub"]),
    "ModelService/CreateModelDeployment": lambda world, it: world.client.models.retire(it.deployment.deployment_id),
    "ModelService/DeleteModelRoute": lambda world, _: world.client.models.set_route(world.fresh("route"), ["stub"]),
    "ModelService/PromoteModelRollout": lambda world, it: world.client.models.roll_back(it.rollout.rollout_id),
    "ModelService/RetireModelDeployment": lambda world, it: world.client.models.register(
        it.deployment.name, adapter="openai", model="gpt-4o-mini", base_url="http://127.0.0.1:9/v1"
    ),
    "ModelService/RollBackModelRollout": lambda world, it: world.client.models.start_rollout(
        it.rollout.route, stable="openai/gpt-4o-mini", canary="stub"
    ),
    "ModelService/SetModelRoute": lambda world, it: world.client.models.delete_route(it.route.name),
    "ModelService/StartModelRollout": lambda world, it: world.client.models.promote(it.rollout.rollout_id),
    "PricingService/ImportPrices": another_price,
    "PricingService/SetUnknownPrice": lambda world, _: world.client.costs.set_unknown_price("flag"),
    "RunService/CancelRun": lambda world, it: list(world.client.runs.watch(it.run.run_id)),
    "RunService/PauseRun": lambda world, it: world.client.runs.resume(it.run.run_id),
    "RunService/ResumeRun": lambda world, it: world.client.runs.cancel(it.run.run_id),
    "RunService/SignalRun": lambda world, it: list(world.client.runs.watch(it.run.run_id)),
    "RunService/StartRun": lambda world, it: world.run_to_its_end(it.run.run_id),
    "SessionService/AdvanceSession": lambda world, it: ended(world, it.session.session_id),
    "SessionService/CancelSession": lambda world, it: list(world.client.sessions.watch(it.session.session_id)),
    "RecordService/ForkRun": lambda world, it: list(world.client.sessions.watch(it.run.run_id)),
    "SessionService/StartSession": lambda world, it: list(world.client.sessions.watch(it.session.session_id)),
    "TenantService/CreateTenant": suspended,
    "TenantService/ResumeTenant": suspended,
    "TenantService/SetSecurityPolicy": lambda world, _: world.operator.tenants.set_security_policy(
        allowed_hosts=["api.example.com"]
    ),
    "TenantService/SuspendTenant": resumed,
    "TenantService/UpdateTenant": other_quotas,
    "ToolService/RegisterTool": a_tool_of_a_later_version,
    "UserService/CreateOidcIssuer": lambda world, it: world.client.users.remove_issuer(it.oidc_issuer.oidc_issuer_id),
    "UserService/DeleteOidcIssuer": added_again,
    "UserService/InviteUser": lambda world, it: world.client.users.remove(it.user.user_id),
    "UserService/RemoveUser": invited_again,
    "WorkflowService/CreateWorkflow": a_workflow_of_a_later_version,
    "UserService/SetUserRoles": lambda world, it: world.client.users.set_roles(it.user.user_id, ["tenant_user"]),
}
#: Of these nothing can change, or what could is the caller's work that spends; a forgotten memory is gone for repeats.
LASTING: Final = frozenset(
    {
        "AgentService/InferAgent",
        "AuditService/AcknowledgeAuditGap",
        "IdentityService/DisableServiceAccount",
        "IdentityService/RevokeApiKey",
        "IdentityService/RotateSigningKey",
        "InferenceService/Embed",
        "InferenceService/Generate",
        "InferenceService/StreamGenerate",
        "LedgerService/RepriceEvents",
        "MemoryService/ForgetMemory",
        "MemoryService/Remember",
        "ModelService/ReportModelQuality",
        "TenantService/DeleteTenant",
        "ToolService/InvokeTool",
        "ToolService/StreamInvokeTool",
    }
)


def test_every_change_says_what_may_happen_meanwhile() -> None:
    assert {rpc.name for rpc in CHANGING} == MEANWHILE.keys() | LASTING


def state_of(world: World) -> list[object]:
    """Gives what a repeat could do once more to things of the gateway."""
    client = world.client
    return [
        {user.user_id: list(user.roles) for user in client.users.list()},
        {issuer.oidc_issuer_id for issuer in client.users.list_issuers()},
        {key.api_key_id: key.HasField("revoke_time") for key in client.identity.list_keys()},
        {one.service_account_id: one.HasField("disable_time") for one in client.identity.list_service_accounts()},
        {(one.user, one.relation, one.object) for one in client.access.relations()},
        client.access.model().etag,
        client.costs.budget().limit_nano_usd,
        [bundle.SerializeToString(deterministic=True) for bundle in client.policies.list()],
        {agent.name: agent.version for agent in client.agents.list()},
        {memory.memory_id for memory in client.memories.list()},
        {model.name: model.deployment_id for model in client.models.list()},
        {route.name: route.etag for route in client.models.routes()},
        {rollout.rollout_id: rollout.share_permille for rollout in client.models.rollouts()},
        {one.tenant_id: (one.state, one.quotas.max_agents) for one in world.operator.tenants.list()},
        client.tenants.own().security_policy.SerializeToString(deterministic=True),
    ]


@pytest.mark.parametrize("rpc", [rpc for rpc in CHANGING if rpc.name in MEANWHILE], ids=lambda rpc: rpc.name)
async def test_a_repeat_after_a_change_is_told_the_first_answer(mesh: RunningMesh, world: World, rpc: Any) -> None:
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        call = Caller(channel, rpc, credentials(rpc, world))
        fields, request_id = await asyncio.to_thread(REQUESTS[rpc.name], world), str(uuid4())
        paths = OF_THE_REPEAT.get(rpc.name, ())
        [first] = await call(fields, request_id)
        await asyncio.to_thread(lambda: MEANWHILE[rpc.name](world, first))
        before = await asyncio.to_thread(state_of, world)
        [again] = await call(fields, request_id)
        assert without([again], paths) == without([first], paths), f"{again}\ninstead of\n{first}"
        assert await asyncio.to_thread(state_of, world) == before
