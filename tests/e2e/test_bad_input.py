"""What callers send wrong: each gets a status, a reason, the field and a sentence, and nothing is half-written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import pytest

from comitia_sdk.errors import ComitiaError, InvalidRequest
from services.meshkit.grpc.errors import remote_error
from tests.e2e.conftest import MakeTenant, Tenant
from tests.support.mesh import RunningMesh

START: Final = {"topic": "Rivers", "mode": "SESSION_MODE_DEBATE", "agents": ["Ada"]}
RULE: Final = "rules: [{name: r, type: regex, pattern: '(a)\\1'}]"


@dataclass(frozen=True, slots=True)
class Wrong:
    """One request and its refusal."""

    path: str
    body: Mapping[str, Any] | bytes
    status: int
    reason: str
    #: Field at fault, `request` where it cannot be read; empty where the whole is too large, or a thing does not exist.
    field: str = ""
    verb: str = "POST"


def a_start(**changes: Any) -> dict[str, Any]:
    return {**START, **changes}


def a_wrong_start(field: str, **changes: Any) -> Wrong:
    return Wrong("/v1/sessions", a_start(**changes), 400, "INVALID_FIELD", field)


def a_wrong_agent(field: str, **changes: Any) -> Wrong:
    agent = {"name": "Eve", "version": "1.0.0", **changes}
    return Wrong("/v1/agents", {"agent": agent}, 400, "INVALID_FIELD", f"agent.{field}")


def a_wrong_bundle(source: str, reason: str, field: str) -> Wrong:
    return Wrong("/v1/policies", {"name": "b", "version": "1.0.0", "source": source}, 400, reason, field)


def a_prompt(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": "Hi"}}]}], **fields}


WRONG: Final[Mapping[str, Wrong]] = {
    "an unknown agent": Wrong("/v1/sessions", a_start(agents=["Nobody"]), 404, "AGENT_NOT_FOUND", "agents[0]"),
    "an unknown version": Wrong("/v1/sessions", a_start(agents=["Ada@9.9.9"]), 404, "AGENT_NOT_FOUND", "agents[0]"),
    "no version at all": a_wrong_start("agents[0]", agents=["Ada@latest"]),
    "an unknown mode": Wrong("/v1/sessions", a_start(mode="SESSION_MODE_WAR"), 400, "MALFORMED_REQUEST", "mode"),
    "an unknown mode by number": a_wrong_start("mode", mode=77),
    "no mode": a_wrong_start("mode", mode="SESSION_MODE_UNSPECIFIED"),
    "an unknown strategy": a_wrong_start("strategy", strategy=77),
    "no agents": a_wrong_start("agents", agents=[]),
    "an agent twice": a_wrong_start("agents", agents=["Ada", "Ada"]),
    "too many agents": a_wrong_start("agents", agents=[f"Agent{number}" for number in range(17)]),
    "10,000 rounds": a_wrong_start("max_rounds", max_rounds=10_000),
    "0 rounds": a_wrong_start("max_rounds", max_rounds=0),
    "-1 rounds": a_wrong_start("max_rounds", max_rounds=-1),
    "an empty topic": a_wrong_start("topic", topic=""),
    "a blank topic": a_wrong_start("topic", topic=" \n\t"),
    "a long topic": a_wrong_start("topic", topic="x" * 16_001),
    "a topic of 5 MB": Wrong("/v1/sessions", a_start(topic="x" * 5_000_000), 413, "REQUEST_TOO_LARGE"),
    "a threshold above 1": a_wrong_start("convergence.jaccard_threshold", convergence={"jaccard_threshold": 1.5}),
    "a negative limit": a_wrong_start("max_cost_nano_usd", max_cost_nano_usd=-1),
    "a request id that is none": a_wrong_start("request_id", request_id="once"),
    "too much metadata": a_wrong_start("metadata", metadata={f"key{number}": "" for number in range(33)}),
    "invalid JSON": Wrong("/v1/sessions", b'{"topic": "Rivers", ', 400, "MALFORMED_REQUEST", "request"),
    "no JSON": Wrong("/v1/sessions", b"topic=Rivers", 400, "MALFORMED_REQUEST", "request"),
    "bad UTF-8": Wrong("/v1/sessions", b'{"topic": "\xff\xfe rivers"}', 400, "MALFORMED_REQUEST", "topic"),
    "an unknown field": Wrong("/v1/sessions", a_start(max_round=3), 400, "UNKNOWN_FIELD", "max_round"),
    "an unknown field inside": Wrong(
        "/v1/agents", {"agent": {"memory": {"recent": 3}}}, 400, "UNKNOWN_FIELD", "agent.memory.recent"
    ),
    "a text for a number": Wrong("/v1/sessions", a_start(max_rounds="many"), 400, "MALFORMED_REQUEST", "max_rounds"),
    "an agent without a name": a_wrong_agent("name", name=""),
    "an agent with a bad name": a_wrong_agent("name", name="../etc"),
    "an agent without a version": a_wrong_agent("version", version=""),
    "a temperature of 3": a_wrong_agent("temperature", temperature=3),
    "too many tokens": a_wrong_agent("max_output_tokens", max_output_tokens=40_000),
    "a weight above 1": a_wrong_agent("style['logic']", style={"logic": 7}),
    "a tool with a bad name": a_wrong_agent("tools[0]", tools=["rm -rf"]),
    "invalid YAML": a_wrong_bundle("rules: [unclosed", "INVALID_FIELD", "source"),
    "YAML that is no bundle": a_wrong_bundle("- just\n- a list\n", "INVALID_FIELD", "source"),
    "a rule of no type": a_wrong_bundle("rules: [{name: r, type: magic}]", "INVALID_FIELD", "source.rules[0].type"),
    "a regex that RE2 refuses": a_wrong_bundle(RULE, "REGEX_REFUSED", "source.rules[0].pattern"),
    "a bundle without rules": a_wrong_bundle("rules: []", "BUNDLE_EMPTY", "source"),
    "a subject without a stage": Wrong("/v1/policies:evaluate", {}, 400, "INVALID_FIELD", "subject.stage"),
    "an id that is none": Wrong("/v1/sessions/yesterday", {}, 400, "INVALID_FIELD", "session_id", "GET"),
    "an id of another kind": Wrong(
        "/v1/sessions/memory_01jd0000000000000000000000", {}, 400, "INVALID_FIELD", "session_id", "GET"
    ),
    "a negative page": Wrong("/v1/agents?page_size=-1", {}, 400, "INVALID_FIELD", "page_size", "GET"),
    "a page token that is none": Wrong("/v1/agents?page_token=abc", {}, 400, "INVALID_FIELD", "page_token", "GET"),
    "an unknown parameter": Wrong("/v1/agents?page_sice=1", {}, 400, "MALFORMED_REQUEST", "page_sice", "GET"),
    "no messages": Wrong("/v1/generate", {"messages": []}, 400, "INVALID_FIELD", "messages"),
    "an unknown model": Wrong("/v1/generate", a_prompt(model="gpt-99"), 404, "MODEL_NOT_FOUND"),
    "no texts": Wrong("/v1/embed", {"texts": []}, 400, "INVALID_FIELD", "texts"),
    "an empty text": Wrong("/v1/embed", {"texts": ["a", " "]}, 400, "INVALID_FIELD", "texts[1]"),
    "nothing to remember": Wrong("/v1/memories", {"parts": []}, 400, "INVALID_FIELD", "parts"),
    "a recall of nothing": Wrong("/v1/memories:recall", {"semantic_matches": 3}, 400, "INVALID_FIELD", "query"),
    "a wrong argument": Wrong(
        "/v1/tools/calculator:invoke",
        {"arguments": {"expression": 7}},
        400,
        "TOOL_ARGUMENTS_WRONG",
        "arguments.expression",
    ),
    "an unknown tool": Wrong("/v1/tools/teleport:invoke", {}, 404, "TOOL_NOT_FOUND"),
    "a schema that is none": Wrong(
        "/v1/tools",
        {
            "tool": {
                "name": "t",
                "description": "d",
                "execution_mode": "EXECUTION_MODE_BUILTIN",
                "builtin": "calculator",
                "input_schema": {"type": "objekt"},
            }
        },
        400,
        "SCHEMA_INVALID",
        "tool.input_schema",
    ),
    "a budget below zero": Wrong(
        "/v1/budgets/tenant:setLimit", {"limit_nano_usd": -1}, 400, "INVALID_FIELD", "limit_nano_usd"
    ),
    "a budget without a limit": Wrong("/v1/budgets/tenant:setLimit", {}, 400, "INVALID_FIELD", "limit_nano_usd"),
    "a key without roles": Wrong("/v1/api-keys", {"display_name": "k"}, 400, "INVALID_FIELD", "roles"),
    "a key without a name": Wrong("/v1/api-keys", {"roles": ["ROLE_ADMIN"]}, 400, "INVALID_FIELD", "display_name"),
    "a wrong key": Wrong("/v1/token", {"api_key": "ck_wrong"}, 401, "API_KEY_INVALID"),
}


@pytest.fixture
async def neat(tenant: Tenant) -> Tenant:
    """Gives a tenant with one agent."""
    await tenant.cast("Ada")
    return tenant


async def written(tenant: Tenant) -> list[Any]:
    """Gives all that a tenant has, to see that nothing was added."""
    ask = tenant.rest.ask
    paths = ("agents", "sessions", "policies", "violations", "memories", "tools", "budgets", "api-keys", "cost/events")
    found = [(await ask("GET", f"/v1/{path}?page_size=500")).body for path in paths]
    for key in found[paths.index("api-keys")]["api_keys"]:
        key.pop("last_use_time", None)  # looking uses it
    return found


async def test_what_is_wrong_is_refused_with_reason_field_and_a_sentence(neat: Tenant) -> None:
    before = await written(neat)
    for name, wrong in WRONG.items():
        raw = wrong.body if isinstance(wrong.body, bytes) else None
        body = wrong.body if raw is None and wrong.verb == "POST" else None
        headers = {"x-api-key": neat.key}
        answer = await neat.rest.ask(wrong.verb, wrong.path, body, data=raw, headers=headers)
        seen = (answer.status, answer.reason, answer.field)
        assert seen == (wrong.status, wrong.reason, wrong.field), f"{name}: {answer.body}"
        message = answer.body["message"]
        assert wrong.field in message, f"{name}: {message}"
        assert len(message.split()) >= 4, f"{name}: {message}"
        assert not any(word in message for word in ("Traceback", "File ", "psycopg", "asyncpg")), message
    assert await written(neat) == before


async def test_the_same_is_refused_by_grpc(neat: Tenant) -> None:
    attempts: list[tuple[type[ComitiaError], str, str, dict[str, Any]]] = [
        (InvalidRequest, "INVALID_FIELD", "topic", {"about": "x" * 16_001}),
        (InvalidRequest, "INVALID_FIELD", "max_rounds", {"max_rounds": 10_000}),
        (InvalidRequest, "INVALID_FIELD", "max_rounds", {"max_rounds": 0}),
        (InvalidRequest, "INVALID_FIELD", "mode", {"mode": "war"}),
        (InvalidRequest, "INVALID_FIELD", "request_id", {"request_id": "once"}),
        (InvalidRequest, "REQUEST_TOO_LARGE", "", {"about": "x" * 5_000_000}),
    ]
    for kind, reason, field, wishes in attempts:
        with pytest.raises(kind) as refused:
            await neat.start("Ada", **wishes)
        assert (refused.value.reason, refused.value.field) == (reason, field)
    with pytest.raises(InvalidRequest) as refused:
        await neat.start()
    assert refused.value.field == "agents"
    assert [session async for session in neat.client.sessions.list()] == []


@pytest.mark.parametrize(
    ("what", "request_bytes", "field"),
    [
        ("bad UTF-8", b"\x0a\x02\xff\xfe", "topic"),
        ("a message that is cut off", b"\x0a\x7f", "request"),
        ("a field of another type", b"\x08\x01\x10", "request"),
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(
    mesh: RunningMesh, neat: Tenant, what: str, request_bytes: bytes, field: str
) -> None:
    metadata = (("authorization", f"Bearer {await neat.client.identity.token()}"),)
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        call: Any = channel.unary_unary("/comitia.orchestrator.v1.SessionService/StartSession")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request_bytes, metadata=metadata, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, what
    error = remote_error(refused.value)
    assert (error.reason, error.field) == ("MALFORMED_REQUEST", field)


async def test_names_that_are_taken_are_taken(neat: Tenant, make_tenant: MakeTenant, mesh: RunningMesh) -> None:
    agent = {"agent": {"name": "Ada", "version": "1.0.0"}}
    assert (await neat.rest.ask("POST", "/v1/agents", agent)).status == 200
    agent["agent"]["instructions"] = "Be somebody else."
    answer = await neat.rest.ask("POST", "/v1/agents", agent)
    assert (answer.status, answer.reason) == (409, "AGENT_VERSION_EXISTS")
    headers = {"x-api-key": mesh.admin_key}
    answer = await neat.rest.ask("POST", "/v1/tenants", {"name": (await make_tenant()).name}, headers=headers)
    assert (answer.status, answer.reason) == (409, "ALREADY_EXISTS")
    answer = await neat.rest.ask("POST", "/v1/tenants", {"name": "No Such Name!"}, headers=headers)
    assert (answer.status, answer.reason, answer.field) == (400, "INVALID_FIELD", "name")


async def test_the_key_of_another_tenant_opens_its_own_door_only(neat: Tenant, make_tenant: MakeTenant) -> None:
    other = await make_tenant()
    answer = await neat.rest.ask("POST", "/v1/sessions", a_start(), headers={"x-api-key": other.key})
    assert (answer.status, answer.reason) == (404, "AGENT_NOT_FOUND")
    answer = await neat.rest.ask("POST", "/v1/sessions", a_start(tenant="tenant_1"))
    assert (answer.status, answer.reason, answer.field) == (400, "UNKNOWN_FIELD", "tenant")


async def test_what_is_left_out_has_the_default_that_the_contract_names(neat: Tenant) -> None:
    answer = await neat.rest.ask("POST", "/v1/sessions", START)
    session = answer.body["session"]
    assert (session["max_rounds"], session["strategy"]) == (3, "SESSION_STRATEGY_ROUND_ROBIN")
    assert (session["max_cost_nano_usd"], session["convergence"]["enabled"]) == (str(10**9), False)
