"""Every public RPC answers through the edge, by gRPC and by every REST path that it has."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict, Parse, ParseDict
from google.protobuf.message import Message

from comitia.orchestrator.v1 import run_pb2, session_pb2, workflow_pb2
from comitia_sdk.sync import Client
from tests.e2e.conftest import Rest
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected
from tests.support.oidc_provider import CLIENT_ID, OidcProvider, running_oidc_provider
from tests.support.public_rpcs import PUBLIC, RestCall, Rpc

Request = dict[str, Any]
RULES: Final = """
rules:
  - name: no_swords
    type: keyword
    keywords: [sword]
    action: warn
"""


@dataclass(kw_only=True)
class World:
    """A tenant in which there is one of everything."""

    client: Client
    #: May make tenants.
    operator: Client
    api_key: str
    token: str
    agent: str = "Athena"
    ended_session: str = ""
    forked_session: str = ""
    memory: str = ""
    bundle: str = ""
    #: Its runs wait for the signal `go`.
    workflow: str = "walk"
    #: Its runs have the agent answer once.
    thinking: str = "think"
    ended_run: str = ""
    #: How many entries of the audit trail are signed; empty before it was asked for.
    signed: str = ""
    tenant: str = ""
    #: A provider whose word the tenant takes, somebody who signed in there, and who they are here.
    issuer: str = ""
    id_token: str = ""
    user: str = ""
    numbers: Iterator[int] = field(default_factory=count)
    #: Stands in all names that it gives; those of tenants are shared by all tests of the installation.
    mark: str = field(default_factory=lambda: token_hex(4))
    #: Of the installation.
    data_dir: Path = Path()
    #: Name of the tenant that was made last to be ended.
    doomed_name: str = ""

    def fresh(self, noun: str) -> str:
        """Gives a name that nobody has."""
        return f"{noun}-{self.mark}-{next(self.numbers)}"

    def doomed(self) -> str:
        """Makes a tenant that nobody will miss; gives its id."""
        self.doomed_name = self.fresh("doomed")
        return self.operator.tenants.create(self.doomed_name).tenant.tenant_id

    def deleted(self) -> str:
        """Makes a tenant and deletes it; gives its id."""
        tenant_id = self.doomed()
        self.operator.tenants.delete(tenant_id, confirm_name=self.doomed_name)
        return tenant_id

    def gap(self) -> Request:
        """Makes a gap in the audit trail; gives the request that acknowledges it."""
        position = 10**9 + next(self.numbers)
        # A loop of its own: this is called where one runs already.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, add_gap(self.data_dir, self.mark, position)).result()
        return {"service": self.mark, "position": str(position), "reason": "made by a test"}

    def take_alarms_back(self) -> None:
        """Acknowledges gaps that were made and are left: a trail with one is not whole, whoever asks."""
        for gap in self.operator.audit.status().gaps:
            if gap.service == self.mark and not gap.HasField("acknowledgement"):
                self.operator.audit.acknowledge(gap.service, gap.stream, gap.position, reason="made by a test")

    def fork(self) -> str:
        """Gives a fork of the session that has ended, the same one each time."""
        if not self.forked_session:
            self.forked_session = self.client.records.fork(self.ended_session, model="stub").run_id
        return self.forked_session

    def run(self, *, paused: bool = False) -> str:
        """Starts a run and follows it until it waits for its signal; gives its id."""
        run = self.client.runs.start(self.workflow)
        for event in self.client.runs.watch(run.run_id):
            if event.step.state == run_pb2.STEP_STATE_WAITING:
                return self.client.runs.pause(run.run_id).run_id if paused else run.run_id
        raise AssertionError(f"{run.run_id} ended")

    def run_to_its_end(self, run_id: str = "") -> str:
        """Has a run end, a new one unless one is named; gives its id."""
        run_id = run_id or self.run()
        self.client.runs.signal(run_id, "go")
        for _ in self.client.runs.watch(run_id):
            pass
        return run_id

    def session(self, *, wait_for: session_pb2.SessionState.ValueType) -> str:
        """Starts a session that waits after each round, and follows it to a state."""
        session = self.client.sessions.start("Rivers", agents=[self.agent], max_rounds=2, manual_advance=True)
        for event in self.client.sessions.watch(session.session_id):
            if event.state_changed.state == wait_for:
                return session.session_id
        raise AssertionError(f"{session.session_id} ended")


async def add_gap(data_dir: Path, service: str, position: int) -> None:
    """Records that an entry of a service is missing, as the gateway does."""
    async with connected(data_dir, "gateway") as database:
        await database.execute("INSERT INTO audit_break VALUES ($1, 0, $2, 'gap', now())", service, position)


WAITING: Final = session_pb2.SESSION_STATE_WAITING


def a_prompt(**fields: Any) -> Request:
    return {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": "Rivers?"}}]}], **fields}


def a_workflow(name: str) -> Request:
    return {"name": name, "version": "1.0.0", "nodes": [{"id": "go", "wait": {"signal": "go"}}]}


def a_thought(name: str, agent: str) -> Request:
    nodes = [{"id": "answer", "agent": {"agent": agent, "prompt": {"literal": "Why rivers?"}}}]
    return {"name": name, "version": "1.0.0", "nodes": nodes}


def a_tool(name: str) -> Request:
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    return {
        "name": name.replace("-", "_"),
        "description": "Computes.",
        "input_schema": schema,
        "execution_mode": "EXECUTION_MODE_BUILTIN",
        "builtin": "calculator",
    }


def a_calculation() -> Request:
    return {"name": "calculator", "arguments": {"expression": "6 * 7"}}


def a_question(text: str) -> Request:
    part = {"text": {"text": text}}
    return {"subject": {"operation": "OPERATION_GENERATE", "stage": "STAGE_BEFORE", "parts": [part]}}


def a_signed_size(world: World) -> str:
    """Waits until something that the tenant did is chained, and has it signed; gives the size of the signed head."""
    if world.signed:
        return world.signed
    until = time.monotonic() + 20
    while not world.client.audit.status().size:
        assert time.monotonic() < until, "nothing that the tenant did reached its audit trail"
        time.sleep(0.1)
    world.signed = str(max(line.head.size for line in world.client.audit.export()))
    return world.signed


def after_signing(world: World) -> Request:
    """Asks without saying anything, once there is something to tell."""
    assert a_signed_size(world)
    return {}


def a_rotation(_: World) -> Request:
    """Rotates once: the same request again gets the same answer, and another has to wait until that key signs."""
    return {"request_id": "01900000-0000-7000-8000-00000000c0de"}


#: Nobody answers there.
A_VERSION: Final = {"adapter": "openai", "model": "gpt-4o-mini", "base_url": "http://127.0.0.1:9/v1"}


def a_model(world: World) -> str:
    """Registers a model; gives its id."""
    return world.client.models.register(
        world.fresh("acme/model"), adapter="openai", model="gpt-4o-mini", base_url=A_VERSION["base_url"]
    ).deployment_id


def a_model_route(world: World) -> str:
    """Makes a route; gives its name."""
    return world.client.models.set_route(world.fresh("route"), ["openai/gpt-4o-mini"]).name


def a_rollout(world: World) -> str:
    """Starts a rollout; gives its id."""
    return world.client.models.start_rollout(
        a_model_route(world), stable="openai/gpt-4o-mini", canary="stub"
    ).rollout_id


def an_answer_of_a_bandit(world: World) -> str:
    """Asks a route with a bandit; gives the hold of its answer."""
    route = world.client.models.set_route(world.fresh("route"), ["stub"], mode="bandit_thompson").name
    return world.client.models.generate("Say yes.", model=route).hold_id


def a_batch(world: World) -> str:
    """Hands a batch over; gives its id."""
    return world.client.batches.create({"a": "Why rivers?"}, max_output_tokens=8).batch_id


#: A request for each public RPC, made anew for each call.
REQUESTS: Final[Mapping[str, Callable[[World], Request]]] = {
    "AccessService/CheckRelation": lambda _: {"user": "user:anna", "relation": "editor", "object": "project:walk"},
    "AccessService/GetAuthorizationModel": lambda _: {},
    "AccessService/ListRelations": lambda _: {"object": "project:walk", "page_size": 1},
    "AccessService/WriteAuthorizationModel": lambda world: {"model": world.client.access.model().model},
    "AccessService/WriteRelations": lambda world: {
        "writes": [{"user": "user:anna", "relation": "editor", "object": f"project:{world.fresh('walk')}"}]
    },
    "AgentService/CreateAgent": lambda world: {"agent": {"name": world.fresh("Agent"), "version": "1.0.0"}},
    "AgentService/GetAgent": lambda world: {"name": world.agent, "version": "1.0.0"},
    "AgentService/InferAgent": lambda world: {"name": world.agent, "prompt": "Why rivers?", "model": "stub"},
    "AgentService/ListAgents": lambda _: {"page_size": 1},
    "AuditService/AcknowledgeAuditGap": lambda world: world.gap(),
    "AuditService/ExportAudit": lambda world: {"from_index": str(int(a_signed_size(world)) - 1)},
    "AuditService/GetAuditStatus": after_signing,
    "AuditService/ListAuditEntries": lambda world: {**after_signing(world), "page_size": 1},
    "AuditService/ProveAuditConsistency": lambda world: {"first_size": a_signed_size(world)},
    "AuditService/ProveAuditEntry": lambda world: {"index": str(int(a_signed_size(world)) - 1)},
    "BudgetService/GetBudget": lambda _: {"budget_id": "tenant"},
    "BudgetService/GetBudgetStatus": lambda _: {"budget_id": "tenant"},
    "BudgetService/GetBudgetTree": lambda _: {"most_runs": 1},
    "BudgetService/ListBudgetAlerts": lambda _: {"page_size": 1, "budget_id": "tenant"},
    "BudgetService/ListBudgets": lambda _: {"page_size": 1},
    "BudgetService/RemoveBudget": lambda world: {
        "budget_id": world.client.costs.set_budget(10**9, project=world.fresh("walk")).budget_id
    },
    "BudgetService/SetBudget": lambda world: {
        "scope": "BUDGET_SCOPE_PROJECT",
        "name": world.fresh("walk"),
        "limit_nano_usd": "50000000000",
    },
    "BudgetService/SetBudgetLimit": lambda _: {"budget_id": "tenant", "limit_nano_usd": "50000000000"},
    "BundleService/ActivateBundle": lambda world: {"bundle": world.bundle},
    "BundleService/CreateBundle": lambda world: {
        "name": world.fresh("bundle"),
        "version": "1.0.0",
        "source": RULES,
        "keep_inactive": True,
    },
    "BundleService/GetBundle": lambda world: {"bundle": world.bundle},
    "BundleService/ListBundles": lambda _: {"page_size": 1},
    "IdentityService/CreateServiceAccount": lambda _: {"display_name": "walk", "roles": ["ROLE_AUDITOR"]},
    "IdentityService/DisableServiceAccount": lambda world: {
        "service_account_id": world.client.identity.create_service_account("short-lived").service_account_id
    },
    "ForecastService/GetSpendForecast": lambda _: {"zone": "Europe/Berlin"},
    "ForecastService/GetSpendVelocity": lambda _: {},
    "ForecastService/ListRecommendations": lambda _: {"page_size": 1},
    "ForecastService/ListSpendAlerts": lambda _: {"page_size": 1},
    "ForecastService/ListSpikeRules": lambda _: {"page_size": 1},
    "ForecastService/SetSpikeRule": lambda _: {"budget_id": "tenant", "degrade_seconds": 60},
    "IdentityService/GetKeySet": lambda _: {},
    "IdentityService/ListServiceAccounts": lambda _: {"page_size": 1},
    "IdentityService/RotateApiKey": lambda world: {
        "api_key_id": world.client.identity.create_key("rotated").api_key.api_key_id,
        "overlap_seconds": 60,
    },
    "IdentityService/RotateSigningKey": a_rotation,
    "IdentityService/CreateApiKey": lambda _: {"display_name": "walk", "roles": ["ROLE_TENANT_USER"]},
    "IdentityService/ExchangeApiKey": lambda world: {"api_key": world.api_key},
    "IdentityService/ListApiKeys": lambda _: {"page_size": 1},
    "IdentityService/RevokeApiKey": lambda world: {
        "api_key_id": world.client.identity.create_key("short-lived").api_key.api_key_id
    },
    "IdentityService/WhoAmI": lambda _: {},
    "InferenceService/CountTokens": lambda _: a_prompt(),
    "InferenceService/Embed": lambda world: {"texts": [world.fresh("A text"), "Another"]},
    "InferenceService/Generate": lambda _: a_prompt(max_output_tokens=16),
    "InferenceService/StreamGenerate": lambda _: a_prompt(model="stub"),
    "LedgerService/ExportCosts": lambda _: {"format": "COST_EXPORT_FORMAT_JSON"},
    "LedgerService/GetCostSeries": lambda _: {"by": "COST_DIMENSION_AGENT", "step": "COST_STEP_HOUR"},
    "LedgerService/RepriceEvents": lambda _: {"start_time": "2026-01-01T00:00:00Z", "apply": True},
    "LedgerService/GetCostSummary": lambda world: {"by": "COST_DIMENSION_AGENT", "run_id": world.ended_session},
    "LedgerService/ListCostEvents": lambda world: {"run_id": world.ended_session, "page_size": 1},
    "MemoryService/ForgetMemory": lambda world: {"memory_id": world.client.memories.remember("Forget me.").memory_id},
    "MemoryService/GetMemory": lambda world: {"memory_id": world.memory},
    "MemoryService/ListMemories": lambda world: {"session_id": world.ended_session, "page_size": 1},
    "MemoryService/Recall": lambda world: {"query": "rivers", "session_id": world.ended_session, "recent_turns": 3},
    "MemoryService/Remember": lambda _: {"parts": [{"text": {"text": "Rivers meet."}}], "tags": ["walk"]},
    "ModelBatchService/CancelModelBatch": lambda world: {"batch_id": a_batch(world)},
    "ModelBatchService/CreateModelBatch": lambda _: {
        "items": [{"item_id": "a", "generate": a_prompt(max_output_tokens=8)}]
    },
    "ModelBatchService/GetModelBatch": lambda world: {"batch_id": a_batch(world)},
    "ModelBatchService/ListModelBatchResults": lambda world: {"batch_id": a_batch(world), "page_size": 1},
    "ModelBatchService/ListModelBatches": lambda _: {"page_size": 1},
    "ModelService/AddModelVersion": lambda world: {"deployment_id": a_model(world), "version": A_VERSION},
    "ModelService/CheckModelVersion": lambda world: {"deployment_id": a_model(world), "version": 1},
    "ModelService/CreateModelDeployment": lambda world: {"name": world.fresh("acme/model"), "version": A_VERSION},
    "ModelService/DeleteModelRoute": lambda world: {"name": a_model_route(world)},
    "ModelService/GetModelComparison": lambda world: {"name": a_model_route(world)},
    "ModelService/GetModelDeployment": lambda world: {"deployment_id": a_model(world)},
    "ModelService/GetModelRollout": lambda world: {"rollout_id": a_rollout(world)},
    "ModelService/GetModelRoute": lambda world: {"name": a_model_route(world)},
    "ModelService/ListModelHealth": lambda _: {},
    "ModelService/ListModelRollouts": lambda _: {"page_size": 1},
    "ModelService/ListModelRoutes": lambda _: {"page_size": 1},
    "ModelService/ListModels": lambda _: {},
    "ModelService/PromoteModelRollout": lambda world: {"rollout_id": a_rollout(world)},
    "ModelService/ReportModelQuality": lambda world: {"hold_id": an_answer_of_a_bandit(world), "score": 0.5},
    "ModelService/RetireModelDeployment": lambda world: {"deployment_id": a_model(world)},
    "ModelService/RollBackModelRollout": lambda world: {"rollout_id": a_rollout(world)},
    "ModelService/SetModelRoute": lambda world: {
        "route": {"name": world.fresh("route"), "members": [{"deployment": "stub"}]}
    },
    "ModelService/StartModelRollout": lambda world: {
        "rollout": {
            "route": a_model_route(world),
            "stable": {"deployment": "openai/gpt-4o-mini"},
            "canary": {"deployment": "stub"},
        }
    },
    "PolicyService/Evaluate": lambda _: a_question("a word and a sword"),
    "PricingService/ImportPrices": lambda world: {
        "content": "provider,model,start_time,input_usd_per_million,output_usd_per_million\n"
        f"walk,{world.fresh('model')},2026-01-01,1,2\n",
        "format": "PRICE_LIST_FORMAT_CSV",
        "source": "a walk",
        "apply": True,
    },
    "PricingService/GetUnknownPrice": lambda _: {},
    "PricingService/SetUnknownPrice": lambda _: {"rule": "UNKNOWN_PRICE_RULE_REFUSE"},
    "PricingService/ListPrices": lambda _: {"provider": "openai", "page_size": 1},
    "RecordService/DiffRuns": lambda world: {"run_id": world.ended_session, "other_run_id": world.fork()},
    "RecordService/ExportRun": lambda world: {"run_id": world.ended_session},
    "RecordService/ForkRun": lambda world: {"run_id": world.ended_session, "model": "stub"},
    "RecordService/GetRunProvenance": lambda world: {"run_id": world.ended_session},
    "RecordService/ReplayRun": lambda world: {"run_id": world.ended_session},
    "RunService/CancelRun": lambda world: {"run_id": world.run()},
    "RunService/GetRun": lambda world: {"run_id": world.ended_run, "at_sequence": "1"},
    "RunService/ListRuns": lambda _: {"page_size": 1},
    "RunService/ListRunSteps": lambda world: {"run_id": world.ended_run, "page_size": 1},
    "RunService/PauseRun": lambda world: {"run_id": world.run()},
    "RunService/ResumeRun": lambda world: {"run_id": world.run(paused=True)},
    "RunService/SignalRun": lambda world: {"run_id": world.run(), "name": "go", "payload": {"why": "asked"}},
    "RunService/StartRun": lambda world: {"workflow": world.workflow, "input": {"about": "rivers"}},
    "RunService/StreamTurns": lambda _: {"page_size": 1},
    "RunService/WatchRun": lambda world: {"run_id": world.ended_run, "include_deltas": True},
    "SessionService/AdvanceSession": lambda world: {"session_id": world.session(wait_for=WAITING)},
    "SessionService/CancelSession": lambda world: {"session_id": world.session(wait_for=WAITING)},
    "SessionService/GetSession": lambda world: {"session_id": world.ended_session},
    "SessionService/ListSessions": lambda _: {"page_size": 1},
    "SessionService/ListTurns": lambda world: {"session_id": world.ended_session, "page_size": 1},
    "SessionService/StartSession": lambda world: {
        "topic": "Rivers",
        "mode": "SESSION_MODE_DIALOGUE",
        "agents": [world.agent],
        "max_rounds": 1,
        "model": "stub",
    },
    "SessionService/WatchSession": lambda world: {"session_id": world.ended_session},
    "StatusService/GetMeshStatus": lambda _: {},
    "StatusService/GetOpenApi": lambda _: {},
    "TenantService/CreateTenant": lambda world: {"name": world.fresh("walked")},
    "TenantService/DeleteTenant": lambda world: {"tenant_id": world.doomed(), "confirm_name": world.doomed_name},
    "TenantService/GetErasure": lambda world: {"tenant_id": world.deleted()},
    "TenantService/GetOwnTenant": lambda _: {},
    "TenantService/GetTenant": lambda world: {"tenant_id": world.client.tenants.own().tenant_id},
    "TenantService/ListTenants": lambda _: {"page_size": 1},
    "TenantService/ResumeTenant": lambda world: {"tenant_id": world.doomed()},
    "TenantService/SetSecurityPolicy": lambda _: {"security_policy": {"audit_level": "AUDIT_LEVEL_MUTATIONS"}},
    "TenantService/SuspendTenant": lambda world: {"tenant_id": world.doomed(), "reason": "unpaid"},
    "TenantService/UpdateTenant": lambda world: {
        "tenant": {"tenant_id": world.client.tenants.own().tenant_id, "quotas": {"max_agents": "100"}}
    },
    "ToolService/GetTool": lambda _: {"name": "calculator"},
    "ToolService/InvokeTool": lambda _: a_calculation(),
    "ToolService/ListTools": lambda _: {"page_size": 1},
    "ToolService/RegisterTool": lambda world: {"tool": a_tool(world.fresh("tool"))},
    "ToolService/SearchTools": lambda _: {"query": "compute a sum"},
    "ToolService/StreamInvokeTool": lambda _: a_calculation(),
    "UserService/CreateOidcIssuer": lambda world: {"issuer": world.issuer, "client_id": world.fresh("client")},
    "UserService/DeleteOidcIssuer": lambda world: {
        "oidc_issuer_id": world.client.users.add_issuer(world.issuer, world.fresh("client")).oidc_issuer_id
    },
    "UserService/ExchangeOidcToken": lambda world: {"tenant": world.tenant, "id_token": world.id_token},
    "UserService/GetLoginOptions": lambda world: {"tenant": world.tenant},
    "UserService/InviteUser": lambda world: {
        "email": f"{world.fresh('guest')}@example.com",
        "roles": ["ROLE_TENANT_USER"],
    },
    "UserService/ListOidcIssuers": lambda _: {"page_size": 1},
    "UserService/ListUsers": lambda _: {"page_size": 1},
    "UserService/RemoveUser": lambda world: {
        "user_id": world.client.users.invite(f"{world.fresh('gone')}@example.com").user_id
    },
    "UserService/SetUserRoles": lambda world: {"user_id": world.user, "roles": ["ROLE_AUDITOR"]},
    "ViolationService/ListViolations": lambda _: {"rule": "no_swords", "page_size": 1},
    "ViolationService/WatchViolations": lambda _: {},
    "WorkerService/Work": lambda _: {"hello": {"worker": "walker", "steps": ["walk"], "credits": 1}},
    "WorkflowService/CreateWorkflow": lambda world: {"workflow": a_workflow(world.fresh("walk"))},
    "EstimateService/EstimateSession": lambda world: {
        "topic": "Which tree grows tallest?",
        "mode": "SESSION_MODE_DEBATE",
        "agents": [world.agent],
    },
    "EstimateService/EstimateWorkflow": lambda world: {"workflow": world.thinking},
    "EstimateService/ListEstimates": lambda _: {"page_size": 1},
    "WorkflowService/GetWorkflow": lambda world: {"name": world.workflow, "version": "1.0.0"},
    "WorkflowService/ListWorkflows": lambda world: {"name": world.workflow, "page_size": 1},
    "WorkflowService/ValidateWorkflow": lambda world: {"workflow": a_workflow(world.workflow)},
}
#: What of an answer shows that it is no empty one.
TELLING: Final[Mapping[str, str]] = {
    "CheckRelation": "explanation",
    "GetAuthorizationModel": "etag",
    "ListRelations": "relations",
    "WriteAuthorizationModel": "etag",
    "WriteRelations": "written",
    "ExportAudit": "entry.canonical",
    "InferAgent": "turn.output.content",
    "GetAgent": "agent.name",
    "GetAuditStatus": "head.signature",
    "GetBudget": "budget.limit_nano_usd",
    "GetBudgetStatus": "left_nano_usd",
    "GetBudgetTree": "nodes",
    "ExportCosts": "data",
    "GetCostSeries": "step",
    "GetCostSummary": "total_nano_usd",
    "Embed": "embeddings",
    "Generate": "generation.hold_id",
    "ExchangeOidcToken": "access_token",
    "GetLoginOptions": "options",
    "GetMemory": "memory.parts",
    "GetSpendForecast": "forecast.end_time",
    "GetMeshStatus": "serving",
    "InvokeTool": "invocation.parts",
    "GetKeySet": "keys",
    "RotateApiKey": "secret",
    "RotateSigningKey": "key_id",
    "ListAuditEntries": "entries",
    "ListCostEvents": "cost_events",
    "ListOidcIssuers": "oidc_issuers",
    "ListTurns": "turns",
    "ListUsers": "users",
    "ListViolations": "violations",
    "ProveAuditConsistency": "second.signature",
    "ProveAuditEntry": "head.signature",
    "Recall": "recent",
    "DiffRuns": "difference.second.forked_from_run_id",
    "ExportRun": "data",
    "ForkRun": "run.forked_from_run_id",
    "ReplayRun": "replay.same",
    "CreateWorkflow": "workflow.digest",
    "EstimateSession": "estimate.output_tokens.median",
    "EstimateWorkflow": "estimate.output_tokens.high",
    "GetRun": "run.workflow",
    "GetWorkflow": "workflow.nodes",
    "ListRuns": "runs",
    "ListRunSteps": "steps",
    "ListWorkflows": "workflows",
    "SetSpikeRule": "rule.degrade_seconds",
    "SetUnknownPrice": "unknown_price.rule",
    "SignalRun": "run.sequence",
    "StartRun": "run.budget_id",
    "ValidateWorkflow": "workflow.digest",
    "WatchRun": "run.workflow",
    "WatchSession": "session_started.topic_start",
    "WatchViolations": "violation.rule",
}
#: RPCs for operators of the installation.
OPERATORS: Final = (
    "TenantService/",
    "AuditService/AcknowledgeAuditGap",
    "IdentityService/RotateSigningKey",
    "PricingService/ImportPrices",
)
#: What was driven so far: RPC and way.
DRIVEN: Final[set[tuple[str, str]]] = set()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with running_oidc_provider(tmp_path_factory.mktemp("oidc")) as running:
        yield running


@contextmanager
def walked_tenant(mesh: RunningMesh, provider: OidcProvider, *, person: str) -> Iterator[World]:
    """Makes a tenant with one of everything; its person has this address and signs in."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        tenant = f"walker-{token_hex(4)}"
        key = operator.tenants.create(tenant).admin_api_key
        with Client(mesh.url, api_key=key) as client:
            world = World(client=client, operator=operator, api_key=key, token=client.identity.token())
            client.agents.create(world.agent)
            world.bundle = f"walk@{client.policies.apply(RULES, name='walk', version='1.0.0').version}"
            session = client.sessions.start("Rivers and a sword", agents=[world.agent], max_rounds=1)
            world.ended_session = session.session_id
            for _ in client.sessions.watch(session.session_id):
                pass
            for workflow in (a_workflow(world.workflow), a_thought(world.thinking, world.agent)):
                client.workflows.create(ParseDict(workflow, workflow_pb2.Workflow()))
            world.ended_run = world.run_to_its_end()
            client.access.grant("user:ben", "viewer", "project:walk")
            world.memory = client.memories.remember("Rivers meet.").memory_id
            world.tenant, world.issuer, world.data_dir = tenant, provider.issuer, mesh.data_dir
            client.users.add_issuer(provider.issuer, CLIENT_ID)
            world.user = client.users.invite(person).user_id
            world.id_token = provider.sign_in(person).id_token
            yield world
            world.take_alarms_back()


@pytest.fixture(scope="module")
def world(mesh: RunningMesh, provider: OidcProvider) -> Iterator[World]:
    with walked_tenant(mesh, provider, person="ann@example.com") as walked:
        yield walked


def credentials(rpc: Rpc, world: World) -> str:
    return world.operator.identity.token() if rpc.name.startswith(OPERATORS) else world.token


async def by_grpc(mesh: RunningMesh, rpc: Rpc, request: Request, token: str) -> Message:
    """Makes the call; gives the answer, or the first message of the stream."""
    metadata = (("authorization", f"Bearer {token}"),)
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        call = rpc.on(channel)(rpc.message(request), metadata=metadata)
        while not rpc.streams:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                # A signing key that was rotated by another test has to sign first; asking is limited to once a second.
                if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                await asyncio.sleep(1.5)
                call = rpc.on(channel)(rpc.message(request), metadata=metadata)
        first = await call.read()
        call.cancel()
        # A worker for which there is nothing to do hears nothing until its stream ends.
        return first if isinstance(first, Message) or not rpc.method.client_streaming else rpc.response_class()


async def by_rest(rest: Rest, rpc: Rpc, call: RestCall, token: str) -> Message | None:
    """Makes the call; gives the answer or the first event, None when it is a document."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(20),
        rest.session.request(call.verb, rest.url + call.path, json=call.body, headers=headers) as answer,
    ):
        kind = "text/event-stream" if rpc.streams else "application/json"
        assert (answer.status, answer.content_type) == (200, kind), await answer.text()
        if rpc.method.output_type.full_name == "google.api.HttpBody":
            assert json.loads(await answer.text())
            return None
        text = await answer.content.readline() if rpc.streams else await answer.read()
        return Parse(text.removeprefix(b"data:"), rpc.response_class())


def check(rpc: Rpc, answer: Message) -> None:
    told = MessageToDict(answer, preserving_proto_field_name=True)
    if rpc.method.name in TELLING:
        for name in TELLING[rpc.method.name].split("."):
            assert told.get(name), f"{rpc.name} left {name} empty: {answer}"
            told = told[name]


@pytest.mark.parametrize("rpc", PUBLIC, ids=lambda rpc: rpc.name)
async def test_a_public_rpc_answers_by_grpc_and_by_rest(mesh: RunningMesh, rest: Rest, world: World, rpc: Rpc) -> None:
    assert rpc.name in REQUESTS, f"{rpc.name} is new: say in REQUESTS how it is called"
    make = REQUESTS[rpc.name]
    check(rpc, await by_grpc(mesh, rpc, make(world), credentials(rpc, world)))
    DRIVEN.add((rpc.path, "grpc"))
    bindings = len(rpc.rest(make(world)))
    for number in range(bindings):
        answer = await by_rest(rest, rpc, rpc.rest(make(world))[number], credentials(rpc, world))
        if answer is not None:
            check(rpc, answer)
    DRIVEN.add((rpc.path, "rest"))


def test_nothing_public_is_left_out(request: pytest.FixtureRequest) -> None:
    assert {rpc.name for rpc in PUBLIC} == REQUESTS.keys()
    walked = [item for item in request.session.items if item.name.startswith("test_a_public_rpc_answers")]
    if len(walked) == len(PUBLIC):
        assert {(rpc.path, way) for rpc in PUBLIC for way in ("grpc", "rest")} == DRIVEN
