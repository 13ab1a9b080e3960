"""Every public RPC that changes something takes a `request_id`, and does a repeated request once.

The RPCs are read from the contracts: one that is not named here as a read, and has no `request_id`, fails.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from comitia_sdk.errors import from_rpc_error
from comitia_sdk.sync import Client
from services.meshkit.core.ids import from_uuid
from tests.e2e.test_every_rpc import OPERATORS, REQUESTS, World, provider, world
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import PUBLIC, Rpc

__all__ = ["provider", "world"]

#: What changes nothing though it is POSTed: questions with a body, and exchanges of one proof of identity for another.
QUESTIONS: Final = frozenset(
    {
        "AccessService/CheckRelation",
        "EstimateService/EstimateSession",
        "EstimateService/EstimateWorkflow",
        "IdentityService/ExchangeApiKey",
        "InferenceService/CountTokens",
        "MemoryService/Recall",
        "PolicyService/Evaluate",
        "ToolService/SearchTools",
        "UserService/ExchangeOidcToken",
        "WorkflowService/ValidateWorkflow",
    }
)
#: Fields that may differ between the first answer and its repeat: how the answer came about, and what is shown once.
#: `*` compares nothing: a stream may be cut into other pieces.
OF_THE_REPEAT: Final[Mapping[str, tuple[str, ...]]] = {
    "InferenceService/Generate": ("generation.replayed", "generation.provider_us"),
    "InferenceService/StreamGenerate": ("*",),
    "ToolService/StreamInvokeTool": ("*",),
    "ToolService/InvokeTool": ("invocation.elapsed_us", "invocation.cached"),
    "MemoryService/Remember": ("memory.embedded",),
    "IdentityService/CreateApiKey": ("secret",),
    "IdentityService/RotateApiKey": ("secret",),
    "TenantService/CreateTenant": ("admin_api_key",),
}


def changes(rpc: Rpc) -> bool:
    return rpc.name not in QUESTIONS and not rpc.verbs <= {"get"}


CHANGING: Final = tuple(rpc for rpc in PUBLIC if changes(rpc))


@pytest.mark.parametrize("rpc", PUBLIC, ids=lambda rpc: rpc.name)
def test_what_changes_something_takes_a_request_id_and_what_does_not_takes_none(rpc: Rpc) -> None:
    named = "request_id" in rpc.method.input_type.fields_by_name
    assert named == changes(rpc), "a mutation needs `string request_id`; a question stands in QUESTIONS"
    if rpc.guard.audit:
        assert changes(rpc), "what is audited changes something"


def test_the_questions_exist() -> None:
    assert {rpc.name for rpc in PUBLIC} >= QUESTIONS


class Caller:
    """Makes RPCs with the token of a key."""

    def __init__(self, channel: grpc.aio.Channel, rpc: Rpc, token: str) -> None:
        self._rpc = rpc
        self._on = rpc.on(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def __call__(self, fields: Mapping[str, Any], request_id: str) -> list[Message]:
        """Gives the answer, or all messages of the stream, once the request is no longer in progress."""
        request = self._rpc.message({**fields, "request_id": request_id})
        for _ in range(40):
            try:
                if self._rpc.streams:
                    return [message async for message in self._on(request, metadata=self._metadata)]
                return [await self._on(request, metadata=self._metadata)]
            except grpc.aio.AioRpcError as error:
                found = from_rpc_error(error)
                if found.reason not in ("REQUEST_IN_PROGRESS", "ROTATION_IN_PROGRESS"):
                    raise
                await asyncio.sleep(found.retry_after.total_seconds() if found.retry_after else 1.0)
        raise AssertionError("still in progress")

    async def refused(self, fields: Mapping[str, Any], request_id: str) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self(fields, request_id)
        return from_rpc_error(error.value).reason


def without(answers: list[Message], paths: tuple[str, ...]) -> list[bytes]:
    if "*" in paths:
        return []
    for answer in answers:
        for path in paths:
            *inner, last = path.split(".")
            found: Any = answer
            for name in inner:
                found = getattr(found, name)
            found.ClearField(last)
    return [answer.SerializeToString(deterministic=True) for answer in answers]


def another(rpc: Rpc, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the fields of a request that differs in something that is part of its meaning."""
    changed = rpc.message(fields)
    for field in changed.DESCRIPTOR.fields:
        value = getattr(changed, field.name)
        if field.name == "texts":
            return {**fields, "texts": ["Quite another"]}
        if field.name in ("parts", "messages"):
            return {**fields, "tags": ["other"]} if "tags" in fields else {**fields, "max_output_tokens": 17}
        if field.name == "arguments" and isinstance(value, Struct):
            return {**fields, "arguments": {"expression": "6 * 8"}}
    return CHANGED[rpc.name](fields)


CHANGED: Final[Mapping[str, Any]] = {
    "AuditService/AcknowledgeAuditGap": lambda it: {**it, "reason": "another"},
    "AccessService/WriteAuthorizationModel": lambda it: {**it, "etag": "other"},
    "AccessService/WriteRelations": lambda it: {"writes": [{**it["writes"][0], "relation": "viewer"}]},
    "AgentService/CreateAgent": lambda it: {"agent": {**it["agent"], "version": "1.0.1"}},
    "AgentService/InferAgent": lambda it: {**it, "prompt": "Why lakes?"},
    "BudgetService/RemoveBudget": lambda _: {"budget_id": "agent:Nobody"},
    "BudgetService/SetBudget": lambda it: {**it, "limit_nano_usd": "50000000001"},
    "BudgetService/SetBudgetLimit": lambda it: {**it, "limit_nano_usd": "50000000001"},
    "ForecastService/SetSpikeRule": lambda it: {**it, "degrade_seconds": 61},
    "BundleService/CreateBundle": lambda it: {**it, "version": "1.0.1"},
    "ModelBatchService/CancelModelBatch": lambda _: {"batch_id": from_uuid("batch", uuid4())},
    "ModelBatchService/CreateModelBatch": lambda it: {"items": [{**it["items"][0], "item_id": "b"}]},
    "ModelService/AddModelVersion": lambda it: {**it, "version": {**it["version"], "model": "gpt-4o"}},
    "ModelService/CheckModelVersion": lambda it: {**it, "version": 2},
    "ModelService/CreateModelDeployment": lambda it: {**it, "name": "acme/another"},
    "ModelService/DeleteModelRoute": lambda _: {"name": "another"},
    "ModelService/PromoteModelRollout": lambda _: {"rollout_id": from_uuid("rollout", uuid4())},
    "ModelService/ReportModelQuality": lambda it: {**it, "score": 0.25},
    "ModelService/RetireModelDeployment": lambda _: {"deployment_id": from_uuid("dep", uuid4())},
    "ModelService/RollBackModelRollout": lambda _: {"rollout_id": from_uuid("rollout", uuid4())},
    "ModelService/SetModelRoute": lambda it: {"route": {**it["route"], "mode": "ROUTE_MODE_WEIGHTED"}},
    "ModelService/StartModelRollout": lambda it: {"rollout": {**it["rollout"], "steps_permille": [7]}},
    "IdentityService/CreateApiKey": lambda it: {**it, "display_name": "other"},
    "IdentityService/CreateServiceAccount": lambda it: {**it, "display_name": "other"},
    "IdentityService/RotateApiKey": lambda it: {**it, "overlap_seconds": 61},
    "PricingService/SetUnknownPrice": lambda it: {**it, "rule": "UNKNOWN_PRICE_RULE_FLAG"},
    "RecordService/ForkRun": lambda it: {**it, "topic": "Lakes"},
    "RunService/SignalRun": lambda it: {**it, "name": "stop"},
    "RunService/StartRun": lambda it: {**it, "input": {"about": "lakes"}},
    "SessionService/StartSession": lambda it: {**it, "topic": "Lakes"},
    "TenantService/CreateTenant": lambda it: {**it, "name": it["name"] + "-other"},
    "ToolService/RegisterTool": lambda it: {"tool": {**it["tool"], "description": "Computes otherwise."}},
    "UserService/InviteUser": lambda it: {**it, "email": "other-" + it["email"]},
    "UserService/SetUserRoles": lambda it: {**it, "roles": ["ROLE_TENANT_USER"]},
    "WorkflowService/CreateWorkflow": lambda it: {"workflow": {**it["workflow"], "version": "1.0.1"}},
    "UserService/CreateOidcIssuer": lambda it: {**it, "client_id": it["client_id"] + "-other"},
}


@pytest.mark.parametrize("rpc", CHANGING, ids=lambda rpc: rpc.name)
async def test_a_repeated_request_is_done_once(mesh: RunningMesh, world: World, rpc: Rpc) -> None:
    assert rpc.name in REQUESTS, f"{rpc.name} is new: say in test_every_rpc.REQUESTS how it is called"
    token = world.operator.identity.token() if rpc.name.startswith(OPERATORS) else world.token
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        call = Caller(channel, rpc, token)
        fields = {**REQUESTS[rpc.name](world)}
        request_id = str(fields.pop("request_id", "") or uuid4())
        paths = OF_THE_REPEAT.get(rpc.name, ())
        first = without(await call(fields, request_id), paths)
        assert without(await call(fields, request_id), paths) == first
        assert without(await call(fields, request_id.upper()), paths) == first, "a UUID has no case"
        assert await call.refused(fields, "not-a-uuid") == "INVALID_FIELD"
        assert await call.refused(fields, f"{{{request_id}}}") == "INVALID_FIELD"
        if rpc.name in CHANGED or any(name in fields for name in ("parts", "messages", "texts", "arguments")):
            assert await call.refused(another(rpc, fields), request_id) == "REQUEST_ID_REUSED"


#: No id or digest is shorter; defaults are.
_LEAST_ID: Final = 16
#: What anybody may do, and what leaves something that can be counted.
COUNTED: Final = ("AgentService/CreateAgent", "ToolService/RegisterTool", "MemoryService/Remember")


@pytest.mark.parametrize("rpc", [rpc for rpc in CHANGING if rpc.name in COUNTED], ids=lambda rpc: rpc.name)
async def test_the_id_of_another_tenant_neither_collides_nor_leaks(
    mesh: RunningMesh, world: World, other_tenant_key: str, rpc: Rpc
) -> None:
    with Client(mesh.url, api_key=other_tenant_key) as other:
        others_token = other.identity.token()
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        mine, theirs = Caller(channel, rpc, world.token), Caller(channel, rpc, others_token)
        fields, request_id = REQUESTS[rpc.name](world), str(uuid4())
        others_fields = another(rpc, fields)
        [first] = await mine(fields, request_id)
        [foreign] = await theirs(others_fields, request_id)
        [again] = await mine(fields, request_id)
    said = texts(rpc.message(fields)) & texts(rpc.message(others_fields))
    shared = texts(first) & texts(foreign) - said
    assert not [text for text in shared if len(text) >= _LEAST_ID], "neither of them said it, and no default is so long"
    for path in OF_THE_REPEAT.get(rpc.name, ()):
        before, later = value(first, path), value(again, path)
        assert (before, later) in ((False, False), (False, True), (True, True)), "it only ever comes true"
        place(again, path, before)
    assert again == first


def texts(message: Message) -> set[str]:
    """Gives every text and id in a message, however deep."""
    found: set[str] = set()
    for field, content in message.ListFields():
        for item in (content.values() if isinstance(content, Mapping) else content) if field.is_repeated else [content]:
            if isinstance(item, Message):
                found |= texts(item)
            elif isinstance(item, str | bytes):
                found.add(str(item))
    return found


def value(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


def place(message: Any, path: str, content: Any) -> None:
    *inner, last = path.split(".")
    setattr(value(message, ".".join(inner)) if inner else message, last, content)


async def test_of_many_at_once_one_is_done(mesh: RunningMesh, world: World) -> None:
    rpc = next(rpc for rpc in CHANGING if rpc.name == "SessionService/StartSession")
    async with asyncio.timeout(60), grpc.aio.insecure_channel(mesh.target) as channel:
        call = Caller(channel, rpc, world.token)
        fields, request_id = REQUESTS[rpc.name](world), str(uuid4())
        answers = await asyncio.gather(*(call(fields, request_id) for _ in range(8)))
    assert len({answer.SerializeToString(deterministic=True) for [answer] in answers}) == 1


async def test_a_call_that_says_whose_it_is_takes_no_request_id(mesh: RunningMesh, world: World) -> None:
    rpc = next(rpc for rpc in CHANGING if rpc.name == "ToolService/InvokeTool")
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        call = Caller(channel, rpc, world.token)
        fields = {**REQUESTS[rpc.name](world), "context": {"call_id": {"run_id": "mine"}}}
        assert await call.refused(fields, str(uuid4())) == "INVALID_FIELD"
