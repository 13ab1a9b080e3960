"""A tenant that has one of everything, all of it marked; for tests in which somebody else asks for it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from comitia.inference.v1.model_pb2 import ROLLOUT_STATE_RUNNING
from comitia.orchestrator.v1.workflow_pb2 import Workflow
from comitia.tools.v1.tool_service_pb2 import Tool
from comitia_sdk.sync import Client
from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ROLE_PERMISSIONS
from tests.e2e.doors import Answer, bearer, shown_by
from tests.e2e.test_every_rpc import WAITING, World, a_tool, a_workflow
from tests.support.mesh import RunningMesh
from tests.support.oidc_provider import OidcProvider
from tests.support.public_rpcs import INTERNAL, PUBLIC
from tests.support.request_fields import TextField

#: Stands in the names of all that the owner has.
MARK: Final = "zq7owner"
#: Stands in what it holds; nobody else ever sends or reads it.
SECRET: Final = "zq7secret"
#: RPCs of a tenant's own work. Operators see every tenant; open RPCs know none.
TENANTS_OWN: Final = tuple(
    rpc for rpc in PUBLIC if not rpc.guard.open and rpc.guard.permission in ROLE_PERMISSIONS[Role.ADMIN]
)
#: What services ask of each other for a tenant. Feeds and the end of tenants are of the whole mesh.
INSIDE: Final = tuple(rpc for rpc in INTERNAL if not rpc.guard.open or rpc.name == "IdentityService/ExchangeGrant")
#: An id of each kind that can be read and that nobody has.
NOBODY: Final[Mapping[str, str]] = {
    "agent": "Nobody7",
    "agent_version": "7.7.7",
    "api_key_id": "key_01jd0000000000000000000000",
    "batch_id": "batch_01jd0000000000000000000000",
    "bundle": "nobody7@1.0.0",
    "budget_id": "budget_01jd0000000000000000000000",
    "deployment_id": "dep_01jd0000000000000000000000",
    "grant_id": "grant_01jd0000000000000000000000",
    "hold_id": "hold_01jd0000000000000000000000",
    "memory_id": "memory_01jd0000000000000000000000",
    "object": "project:nobody7",
    "oidc_issuer_id": "issuer_01jd0000000000000000000000",
    "project": "nobody7",
    "request_id": "01900000-0000-7000-8000-00000000dead",
    "rollout_id": "rollout_01jd0000000000000000000000",
    "run_id": "run_01jd0000000000000000000000",
    "service_account_id": "svc_01jd0000000000000000000000",
    "subject": "key_01jd0000000000000000000000",
    "tenant": "nobody-7",
    "tenant_id": "tenant_01jd0000000000000000000000",
    "tool": "nobody7_tool",
    "user": "user:nobody7@example.com",
    "user_id": "user_01jd0000000000000000000000",
    "workflow": "nobody7",
}
#: Names of fields that hold an id, and the kind of it. `name` and the like depend on whose name it is.
KINDS: Final[Mapping[str, str]] = {
    "actor": "subject",
    "agent_name": "agent",
    "agent_version": "agent_version",
    "agents": "agent",
    "allowed_agents": "agent",
    "api_key_id": "api_key_id",
    "batch_id": "batch_id",
    "budget_id": "budget_id",
    "budget_ids": "budget_id",
    "bundle": "bundle",
    "deployment_id": "deployment_id",
    "grant_id": "grant_id",
    "hold_id": "hold_id",
    "memory_id": "memory_id",
    # Of a session; the text stands under the key `project`.
    "metadata": "project",
    "object": "object",
    "oidc_issuer_id": "oidc_issuer_id",
    "other_run_id": "run_id",
    "project": "project",
    "request_id": "request_id",
    "rollout_id": "rollout_id",
    "run_id": "run_id",
    "service_account_id": "service_account_id",
    "session_id": "run_id",
    "target": "run_id",
    "tenant": "tenant",
    "tenant_id": "tenant_id",
    "tools": "tool",
    "user": "user",
    "user_id": "user_id",
    "workflow": "workflow",
}
#: Of which kind the names are that services ask for.
OWN_NAMES: Final[Mapping[str, str]] = {
    "AgentService": "agent",
    "BundleService": "bundle",
    "ToolService": "tool",
    "WorkflowService": "workflow",
}
#: Ids that are given by the caller, of things outside, or read by nobody.
FREE: Final = frozenset({"blob_id", "client_id", "item_id", "tool_call_id", "tool_id", "confirm_name", "display_name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A tenant that has one of everything, all of it marked."""

    client: Client
    mesh: RunningMesh
    key: str
    ids: Mapping[str, str]

    def others(self, sent: str, seen: bytes) -> list[str]:
        """Gives the ids that stand in an answer though nobody sent them."""
        given = (one for one in self.ids.values() if "_01" in one)
        return [one for one in given if one.encode() in seen and one not in sent]


def one_peer(peers: Collection[str]) -> str:
    """Gives one of the services that may make a call: of grants, which are for what a service works on, for runs."""
    return "orchestrator" if "orchestrator" in peers else min(peers)


def asked_inside(mesh: RunningMesh, name: str, token: str, fields: Mapping[str, Any]) -> Any:
    """Makes an internal call as a service that may, for the caller with this token."""
    rpc = next(rpc for rpc in INTERNAL if rpc.name == name)
    headers = (*shown_by(mesh, one_peer(rpc.guard.peers)), *bearer(token))
    with grpc.insecure_channel(mesh.addresses.services[rpc.path.split(".")[1]]) as channel:
        return rpc.on(channel)(rpc.message(fields), metadata=headers, timeout=20)


def a_reservation(run_id: str) -> dict[str, Any]:
    """A request to hold money for a call of a tool."""
    return {
        "request_id": str(uuid4()),
        "context": {"call_id": {"run_id": run_id, "path": "walk"}},
        "kind": "COST_KIND_TOOL",
        "provider": "walk",
        "model": "walk",
        "tool_cost_nano_usd": "1",
        "ttl": "3600s",
    }


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
        workflow = {**a_workflow(f"{MARK}_workflow"), "description": f"Keeps a {SECRET}."}
        client.workflows.create(ParseDict(workflow, Workflow()))
        model = client.models.register(f"{MARK}/model", adapter="openai", model=SECRET, api_key=SECRET)
        client.models.set_route(MARK, ["openai/gpt-4o-mini"])
        rollout = client.models.start_rollout(MARK, stable="openai/gpt-4o-mini", canary="stub")
        key = client.identity.create_key(SECRET)
        client.access.grant(f"user:{MARK}@example.com", "viewer", f"project:{MARK}")
        token, run_id = client.identity.token(), session.session_id
        reserved = a_reservation(run_id)
        yield Owner(
            client=client,
            mesh=mesh,
            key=key.secret,
            ids={
                "agent": agent,
                "agent_version": "1.0.0",
                "api_key_id": key.api_key.api_key_id,
                "batch_id": client.batches.create({"a": SECRET}, max_output_tokens=8).batch_id,
                "bundle": f"{MARK}@1.0.0",
                "budget_id": session.budget_id,
                "deployment_id": model.deployment_id,
                "grant_id": asked_inside(mesh, "IdentityService/IssueGrant", token, {"run_id": run_id}).grant_id,
                "hold_id": asked_inside(mesh, "BudgetService/Reserve", token, reserved).hold.hold_id,
                "memory_id": client.memories.remember(f"A memory of {SECRET}.").memory_id,
                "object": f"project:{MARK}",
                "oidc_issuer_id": client.users.add_issuer(provider.issuer, MARK).oidc_issuer_id,
                "project": MARK,
                "request_id": reserved["request_id"],
                "rollout_id": rollout.rollout_id,
                "run_id": run_id,
                "service_account_id": client.identity.create_service_account(SECRET).service_account_id,
                "subject": key.api_key.api_key_id,
                "tenant": name,
                "tenant_id": made.tenant.tenant_id,
                "tool": f"{MARK}_tool",
                "user": f"user:{MARK}@example.com",
                "workflow": f"{MARK}_workflow",
                "user_id": client.users.invite(f"{MARK}@example.com").user_id,
            },
        )


def kind_of(field: TextField) -> str | None:
    """Tells the kind of the id in a field; None when it holds none."""
    if field.is_key:
        return None
    if field.name in ("name", "names"):
        service = field.rpc.name.partition("/")[0]
        return OWN_NAMES.get(service)
    return KINDS.get(field.name)


def leak(answer: Answer) -> str:
    """Gives what of the owner's stands in an answer."""
    return SECRET if SECRET in answer.message or SECRET.encode() in answer.body else ""


def still_there(owner: Owner) -> None:
    """Fails if anything that the owner has was changed by somebody else."""
    ids, client = owner.ids, owner.client
    assert client.sessions.get(ids["run_id"]).state == WAITING
    assert client.memories.get(ids["memory_id"]).memory_id == ids["memory_id"]
    assert {tool.name for tool in client.tools.list()} >= {ids["tool"]}
    assert ids["workflow"] in {workflow.name for workflow in client.workflows.list()}
    assert client.models.get(ids["deployment_id"]).versions[0].model == SECRET
    assert client.models.rollout(ids["rollout_id"]).state == ROLLOUT_STATE_RUNNING
    assert not client.batches.get(ids["batch_id"]).cancel_requested
    assert ids["user_id"] in {user.user_id for user in client.users.list()}
    assert ids["oidc_issuer_id"] in {issuer.oidc_issuer_id for issuer in client.users.list_issuers()}
    [account] = client.identity.list_service_accounts()
    assert not account.HasField("disable_time")
    with Client(owner.mesh.url, api_key=owner.key) as other:
        assert other.identity.whoami().subject == ids["api_key_id"]


def told(owner: Owner, kind: str, nobodys: Answer, owners: Answer) -> Iterator[str]:
    """Says what the answer to an id of the owner tells that the answer to an id of nobody does not."""
    mine = owner.ids[kind]
    if (owners.code, owners.reason) != (nobodys.code, nobodys.reason):
        yield f"{owners.short} instead of {nobodys.short}"
    elif owners.message.replace(mine, "…") != nobodys.message.replace(NOBODY[kind], "…"):
        yield f"{owners.message!r} instead of {nobodys.message!r}"
    if leaked := leak(owners) or owner.others(mine, owners.body):
        yield f"shows {leaked}"
