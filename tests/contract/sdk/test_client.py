"""The asynchronous client against a fake mesh over real gRPC."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

import grpc
import pytest

from comitia.orchestrator.v1 import agent_service_pb2, agent_service_pb2_grpc, session_service_pb2
from comitia.policy.v1 import policy_pb2
from comitia_sdk import errors
from comitia_sdk.aio import AsyncClient
from comitia_sdk.connection import PASSING, Connection, is_this_machine
from comitia_sdk.credentials import ApiKey, NoCredentials
from services.meshkit.core.errors import ErrorKind
from tests.support.fake_mesh import ADMIN_KEY, Broken, FakeMesh, Refused

Item = TypeVar("Item")


async def all_of(items: AsyncGenerator[Item]) -> list[Item]:
    return [item async for item in items]


async def a_session(client: AsyncClient, **options: object) -> str:
    for name in ("Athena", "Apollo"):
        await client.agents.create(name)
    asked: dict[str, object] = {"agents": ["Athena", "Apollo"], "max_rounds": 2, **options}
    return (await client.sessions.start("Tabs or spaces?", **asked)).session_id  # type: ignore[arg-type]


async def test_a_key_is_exchanged_once_for_many_calls(mesh: FakeMesh, client: AsyncClient) -> None:
    await asyncio.gather(*(client.identity.whoami() for _ in range(20)))

    assert (mesh.calls["ExchangeApiKey"], mesh.calls["WhoAmI"]) == (1, 20)
    assert mesh.last_metadata["authorization"].startswith("Bearer token-")
    assert ADMIN_KEY not in str(mesh.last_metadata)


async def test_a_token_is_renewed_before_it_stops_working(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.token_seconds = 59.0  # less than the margin: every call asks for a new one
    await client.identity.whoami()
    await client.identity.whoami()

    assert mesh.calls["ExchangeApiKey"] == 2


async def test_a_token_that_the_mesh_no_longer_takes_is_exchanged_anew(mesh: FakeMesh, client: AsyncClient) -> None:
    session = await a_session(client)
    mesh.forget_tokens()
    await asyncio.gather(*(client.identity.whoami() for _ in range(5)))
    mesh.forget_tokens()
    events = await all_of(client.sessions.watch(session))

    assert events[-1].WhichOneof("event") == "session_ended"
    assert mesh.calls["ExchangeApiKey"] == 3


async def test_a_given_token_is_used_as_it_is(mesh: FakeMesh) -> None:
    token, _ = mesh.give_token()
    async with AsyncClient(mesh.url, access_token=token) as client:
        await client.identity.whoami()
        assert await client.identity.token() == token
        mesh.forget_tokens()
        with pytest.raises(errors.Unauthenticated):
            await client.identity.whoami()

    assert mesh.calls["ExchangeApiKey"] == 0


async def test_a_wrong_key_and_a_missing_key_say_so(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMITIA_API_KEY", raising=False)
    async with AsyncClient(mesh.url, api_key="ck_wrong_key") as client:
        with pytest.raises(errors.Unauthenticated) as wrong:
            await client.identity.whoami()
    async with AsyncClient(mesh.url) as client:
        with pytest.raises(errors.Unauthenticated) as missing:
            await client.identity.whoami()

    assert (wrong.value.reason, missing.value.reason) == ("API_KEY_INVALID", "API_KEY_MISSING")
    assert "COMITIA_API_KEY" in missing.value.message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ErrorKind.INVALID, errors.InvalidRequest),
        (ErrorKind.DENIED, errors.PermissionDenied),
        (ErrorKind.NOT_FOUND, errors.NotFound),
        (ErrorKind.EXISTS, errors.AlreadyExists),
        (ErrorKind.PRECONDITION, errors.FailedPrecondition),
        (ErrorKind.CONFLICT, errors.Conflict),
        (ErrorKind.EXHAUSTED, errors.LimitReached),
        (ErrorKind.UNAVAILABLE, errors.MeshUnavailable),
        (ErrorKind.DEADLINE, errors.TimedOut),
        (ErrorKind.INTERNAL, errors.InternalFailure),
    ],
)
async def test_each_refusal_is_an_exception_of_its_kind_with_its_details(
    mesh: FakeMesh, client: AsyncClient, kind: ErrorKind, expected: type[errors.ComitiaError]
) -> None:
    mesh.fail_next(
        "GetAgent",
        Refused(kind, "A_REASON", "a sentence", field="name", retry_after=timedelta(seconds=3), budget="budget_1"),
    )
    with pytest.raises(expected) as refused:
        await client.agents.get("Athena")

    error = refused.value
    assert type(error) is expected
    assert (error.reason, error.message, error.metadata["budget"]) == ("A_REASON", "a sentence", "budget_1")
    assert error.field == "name"
    may_pass = kind in (ErrorKind.EXHAUSTED, ErrorKind.UNAVAILABLE, ErrorKind.CONFLICT)
    assert error.retry_after == (timedelta(seconds=3) if may_pass else None)


def rate_limited(seconds: float) -> Refused:
    return Refused(ErrorKind.EXHAUSTED, "RATE_LIMITED", "too many calls", retry_after=timedelta(seconds=seconds))


async def test_a_rate_limit_that_passes_soon_is_waited_out(mesh: FakeMesh, client: AsyncClient) -> None:
    await client.identity.whoami()
    mesh.fail_next("WhoAmI", rate_limited(0.05))
    mesh.fail_next("WhoAmI", rate_limited(0.05))
    began = time.monotonic()
    assert (await client.identity.whoami()).tenant_id == "tenant_1"
    assert time.monotonic() - began >= 0.15


async def test_a_rate_limit_that_lasts_is_told_at_once(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.fail_next("WhoAmI", rate_limited(30))
    began = time.monotonic()
    with pytest.raises(errors.RateLimited) as refused:
        await client.identity.whoami()
    assert time.monotonic() - began < 20
    assert refused.value.retry_after == timedelta(seconds=30)
    assert isinstance(refused.value, errors.LimitReached)


def busy(reason: str = "DATABASE_BUSY", seconds: float = 0.01) -> Refused:
    return Refused(ErrorKind.EXHAUSTED, reason, "try again shortly", retry_after=timedelta(seconds=seconds))


@pytest.mark.parametrize("reason", sorted(PASSING))
async def test_a_mesh_that_is_busy_is_asked_again_for_the_same_thing(
    mesh: FakeMesh, client: AsyncClient, reason: str
) -> None:
    for _ in range(3):
        mesh.fail_next("CreateAgent", busy(reason))
    await client.agents.create("Ada")
    for _ in range(3):
        mesh.fail_next("GetAgent", busy(reason))
    assert (await client.agents.get("Ada")).name == "Ada"

    assert len(mesh.request_ids["CreateAgent"]) == mesh.calls["GetAgent"] == 4
    assert len(set(mesh.request_ids["CreateAgent"])) == 1


async def test_a_mesh_that_stays_busy_is_given_up(mesh: FakeMesh, client: AsyncClient) -> None:
    for _ in range(10):
        mesh.fail_next("GetAgent", busy())
    with pytest.raises(errors.LimitReached) as refused:
        await client.agents.get("Ada")
    assert (refused.value.reason, mesh.calls["GetAgent"]) == ("DATABASE_BUSY", 6)


async def test_nobody_waits_for_a_busy_mesh_longer_than_the_call_may_take(mesh: FakeMesh) -> None:
    connection = Connection(mesh.url, ApiKey(ADMIN_KEY))
    mesh.fail_next("GetAgent", busy(seconds=1.0))
    try:
        stub = agent_service_pb2_grpc.AgentServiceStub(connection.channel)
        with pytest.raises(errors.LimitReached):
            await connection.call(stub.GetAgent, agent_service_pb2.GetAgentRequest(name="Ada"), timeout=0.9)
    finally:
        await connection.close()
    assert mesh.calls["GetAgent"] == 1


@pytest.mark.parametrize("reason", ["BUDGET_EXHAUSTED", "QUOTA_EXCEEDED", "RUNS_AT_LIMIT", "PROVIDER_RATE_LIMITED"])
async def test_what_takes_more_than_a_moment_to_pass_is_told_at_once(
    mesh: FakeMesh, client: AsyncClient, reason: str
) -> None:
    mesh.fail_next("GetAgent", busy(reason))
    with pytest.raises(errors.LimitReached):
        await client.agents.get("Ada")
    assert mesh.calls["GetAgent"] == 1


async def test_a_watch_that_a_busy_mesh_refuses_is_opened_again(mesh: FakeMesh, client: AsyncClient) -> None:
    session = await a_session(client)
    mesh.fail_next("WatchSession", busy())
    events = await all_of(client.sessions.watch(session))
    assert (events[-1].WhichOneof("event"), mesh.calls["WatchSession"]) == ("session_ended", 2)


async def test_a_failure_without_details_still_has_a_reason(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.fail_next("GetAgent", Broken(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large"))
    with pytest.raises(errors.LimitReached) as refused:
        await client.agents.get("Athena")

    assert (refused.value.reason, refused.value.message) == ("RESOURCE_EXHAUSTED", "message too large")


async def test_a_mesh_that_does_not_answer_is_named() -> None:
    async with AsyncClient("http://127.0.0.1:1", api_key=ADMIN_KEY) as client:
        with pytest.raises(errors.MeshUnavailable) as down:
            await client.status()
        with pytest.raises(errors.MeshUnavailable):
            await client.agents.get("Athena")

    assert (down.value.reason, down.value.message) == (
        "MESH_UNREACHABLE",
        "the mesh at http://127.0.0.1:1 does not answer",
    )
    assert "refused" in down.value.metadata["cause"].lower()


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://host:port", "http://[::1", "not an address"])
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        Connection(url, NoCredentials(url))

    assert (refused.value.field, refused.value.reason) == ("url", "INVALID_FIELD")


def test_this_machine_is_known_by_its_addresses() -> None:
    here = ["http://127.0.0.1:7400", "http://localhost:7400", "http://[::1]:7400", "127.0.0.1:7400"]
    elsewhere = ["http://mesh.example", "https://10.0.0.1:7400", "http://localhost.example", "http://[::1"]

    assert [is_this_machine(url) for url in here + elsewhere] == [True] * 4 + [False] * 4


async def test_a_proxy_of_the_company_is_no_way_to_this_machine(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with AsyncClient(mesh.url, api_key=ADMIN_KEY) as client:
        assert (await client.identity.whoami()).tenant_id == "tenant_1"


async def test_a_list_gives_all_pages_and_fetches_no_more_than_asked_for(mesh: FakeMesh, client: AsyncClient) -> None:
    for number in range(7):
        await client.agents.create(f"Agent{number}")

    found = await all_of(client.agents.list(page_size=3))
    assert [agent.name for agent in found] == [f"Agent{number}" for number in range(7)]
    assert mesh.calls["ListAgents"] == 3

    async for _ in client.agents.list(page_size=3):
        break
    assert mesh.calls["ListAgents"] == 4


async def test_a_negative_page_size_is_refused_by_field(client: AsyncClient) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        await all_of(client.agents.list(page_size=-1))
    assert refused.value.field == "page_size"


async def test_an_agent_never_changes(client: AsyncClient) -> None:
    first = await client.agents.create("Athena", "1.0.0", instructions="Argue.", style={"logic": 0.9})
    again = await client.agents.create("Athena", "1.0.0", instructions="Argue.", style={"logic": 0.9})
    with pytest.raises(errors.AlreadyExists) as taken:
        await client.agents.create("Athena", "1.0.0", instructions="Agree.")

    assert first.digest == again.digest
    assert taken.value.reason == "AGENT_VERSION_EXISTS"
    assert (await client.agents.get("Athena")).instructions == "Argue."


async def test_a_session_is_started_followed_and_listed(client: AsyncClient) -> None:
    session = await a_session(client, convergence=True, max_cost_nano_usd=500, metadata={"team": "a"})
    kinds = [event.WhichOneof("event") for event in await all_of(client.sessions.watch(session))]

    assert kinds[0] == "session_started"
    assert kinds[-1] == "session_ended"
    assert kinds.count("turn_completed") == 4
    assert [turn.index for turn in await all_of(client.sessions.turns(session, page_size=3))] == [1, 2, 3, 4]
    assert [one.session_id for one in await all_of(client.sessions.list())] == [session]
    held = await client.sessions.get(session)
    assert (held.max_cost_nano_usd, held.convergence.enabled) == (500, True)


async def test_watching_to_the_end_takes_one_call(mesh: FakeMesh, client: AsyncClient) -> None:
    await all_of(client.sessions.watch(await a_session(client)))

    assert (mesh.calls["WatchSession"], mesh.calls["GetSession"]) == (1, 0)


async def test_a_repeated_start_with_one_request_id_starts_one_session(client: AsyncClient) -> None:
    request_id = str(uuid4())

    assert await a_session(client, request_id=request_id) == await a_session(client, request_id=request_id)


async def test_a_mutation_carries_an_id_of_its_own_and_is_repeated_under_it(
    mesh: FakeMesh, client: AsyncClient
) -> None:
    mesh.fail_next("CreateAgent", Broken())
    mesh.fail_next("CreateAgent", Refused(ErrorKind.CONFLICT, "REQUEST_IN_PROGRESS", "still at work"))
    await client.agents.create("Ada")
    await client.agents.create("Ben")
    first, again, at_last, other = mesh.request_ids["CreateAgent"]
    assert first == again == at_last != other
    assert [str(UUID(one)) for one in (first, other)] == [first, other]


async def test_a_repeat_waits_for_the_answer_of_a_call_that_is_being_made(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.fail_next("Generate", Broken())
    for _ in range(6):
        soon = timedelta(milliseconds=1)
        mesh.fail_next("Generate", Refused(ErrorKind.CONFLICT, "CALL_IN_PROGRESS", "is being made", retry_after=soon))
    assert (await client.models.generate("hello")).parts[0].text.text == "heard: hello"
    assert len(set(mesh.request_ids["Generate"])) == 1
    mesh.fail_next("Generate", Refused(ErrorKind.CONFLICT, "CALL_ARGUMENTS_DIFFER", "other arguments"))
    with pytest.raises(errors.Conflict):
        await client.models.generate("hello")


async def test_a_repeat_is_given_up_and_a_conflict_is_none(mesh: FakeMesh, client: AsyncClient) -> None:
    for _ in range(4):
        mesh.fail_next("CreateAgent", Broken())
    with pytest.raises(errors.MeshUnavailable):
        await client.agents.create("Ada")
    assert mesh.calls["CreateAgent"] == 4
    mesh.fail_next("CreateAgent", Refused(ErrorKind.CONFLICT, "REQUEST_ID_REUSED", "another body"))
    with pytest.raises(errors.ComitiaError):
        await client.agents.create("Ada")
    assert mesh.calls["CreateAgent"] == 5


async def test_what_changes_nothing_is_not_repeated(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.fail_next("ListAgents", Broken())
    with pytest.raises(errors.MeshUnavailable):
        [agent async for agent in client.agents.list()]
    assert mesh.calls["ListAgents"] == 1


async def test_an_unknown_mode_never_leaves_the_client(mesh: FakeMesh, client: AsyncClient) -> None:
    with pytest.raises(errors.InvalidRequest, match="did you mean debate"):
        await client.sessions.start("x", agents=["Athena"], mode="debat")
    assert mesh.calls["StartSession"] == 0


async def test_a_topic_of_five_megabytes_is_refused_by_the_mesh(client: AsyncClient) -> None:
    await client.agents.create("Athena")
    with pytest.raises((errors.InvalidRequest, errors.LimitReached)):
        await client.sessions.start("x" * 5_000_000, agents=["Athena"])


def recorded(events: list[session_service_pb2.WatchSessionResponse]) -> list[int]:
    return [event.sequence for event in events if event.WhichOneof("event") != "text_delta"]


@pytest.mark.parametrize("drains", [False, True], ids=["breaks", "drains"])
async def test_a_watched_stream_goes_on_where_it_broke_without_repeating_itself(
    mesh: FakeMesh, client: AsyncClient, drains: bool
) -> None:
    session = await a_session(client)
    mesh.sessions.breaks, mesh.sessions.drains, mesh.sessions.repeats = [6, 2], drains, 1
    events = await all_of(client.sessions.watch(session))

    sequences = recorded(events)
    assert sequences == list(range(1, sequences[-1] + 1))
    assert len(mesh.sessions.opened_after) == 3
    assert events[-1].WhichOneof("event") == "session_ended"


async def test_watching_begins_after_a_sequence(client: AsyncClient) -> None:
    session = await a_session(client)

    sequences = recorded(await all_of(client.sessions.watch(session, after_sequence=5)))
    assert sequences[0] == 6


async def test_watching_a_session_beyond_its_end_ends_at_once(mesh: FakeMesh, client: AsyncClient) -> None:
    session = await a_session(client)
    last = (await client.sessions.get(session)).sequence

    assert await all_of(client.sessions.watch(session, after_sequence=last)) == []
    assert mesh.calls["WatchSession"] == 1


async def test_watching_nothing_is_refused(client: AsyncClient) -> None:
    with pytest.raises(errors.NotFound):
        await all_of(client.sessions.watch("run_none"))


async def test_leaving_a_watched_session_ends_the_call(mesh: FakeMesh, client: AsyncClient) -> None:
    mesh.sessions.hold = True
    session = await a_session(client)
    events = client.sessions.watch(session)
    await anext(events)
    await events.aclose()

    assert (await client.sessions.cancel(session)).state_reason == "CANCELLED"


async def test_a_session_waits_for_each_round_when_told_to(client: AsyncClient) -> None:
    session = await a_session(client, manual_advance=True)
    assert (await client.sessions.get(session)).rounds_executed == 1
    assert (await client.sessions.advance(session)).rounds_executed == 2
    with pytest.raises(errors.FailedPrecondition):
        await client.sessions.advance(session)


async def test_every_other_noun_answers(mesh: FakeMesh, client: AsyncClient) -> None:
    assert [model.name for model in await client.models.list()] == ["openai/gpt-4o-mini", "stub", "acme/mini"]
    assert [one.deployment for one in await client.models.health()] == ["acme/mini"]
    assert (await client.models.generate("hello")).parts[0].text.text == "heard: hello"
    pieces = await all_of(client.models.stream("hello"))
    assert pieces[-1].generation.parts[0].text.text == "".join(piece.text_delta for piece in pieces)
    assert await client.models.count_tokens("hello") == 5
    assert await client.models.embed(["a", "b"]) == [[1.0, 0.0], [1.0, 0.0]]

    assert (await client.tools.invoke("calculator", {"expression": "6*7"})).parts[0].text.text == "42"
    assert (await client.tools.invoke("calculator", {"expression": "?"})).failed
    assert (await all_of(client.tools.stream("calculator", {"expression": "6*7"})))[-1].invocation.tool
    assert [tool.name for tool in await all_of(client.tools.list())] == ["calculator"]
    assert (await client.tools.search("sums"))[0].tool.name == "calculator"

    memory = await client.memories.remember("the sky is blue", tags=["sky"])
    assert (await client.memories.recall("sky")).semantic[0].memory == memory
    assert (await client.memories.get(memory.memory_id)) == memory
    await client.memories.forget(memory.memory_id)
    assert await all_of(client.memories.list()) == []

    assert (await client.policies.apply("rules: []", name="mine")).active
    assert not (await client.policies.evaluate("a secret")).allowed
    assert (await client.policies.activate("ground")).active
    assert len(await all_of(client.policies.list())) == 2
    mesh.law.found = [policy_pb2.Violation(violation_id="violation_1", sequence=1, rule="no_secrets")]
    assert [one.rule for one in await all_of(client.policies.violations())] == ["no_secrets"]
    watched = client.policies.watch_violations()
    assert (await anext(watched)).violation_id == "violation_1"
    await watched.aclose()

    assert (await client.costs.summary()).total_nano_usd == 123_000
    assert (await client.costs.series(by="model", step="hour")).lines[0].key == "gpt-4o-mini"
    assert b"".join(await all_of(client.costs.export(form="csv"))).startswith(b"start_time")
    assert (await client.costs.set_limit(5)).limit_nano_usd == 5
    assert len(await all_of(client.costs.budgets())) == 1
    assert await all_of(client.costs.events()) == []
    assert [price.model for price in await all_of(client.costs.prices())] == ["gpt-4o-mini"]

    assert (await client.forecasts.velocity()).this_hour_nano_usd == 41_000_000_000
    assert (await client.forecasts.forecast(budget_id="tenant")).limit_nano_usd == 900_000_000_000
    assert [one.run.name for one in await all_of(client.forecasts.alerts())] == ["run_wild"]
    assert [one.other_model for one in await all_of(client.forecasts.recommendations())] == ["gpt-4o-mini"]
    assert (await client.forecasts.set_spike_rule("tenant", 60)).degrade_seconds == 60
    assert len(await all_of(client.forecasts.spike_rules())) == 1
    flagged = await client.costs.set_unknown_price("flag", ceiling_nano_usd_per_million=700_000_000_000)
    assert flagged.ceiling_nano_usd_per_million == 700_000_000_000
    assert await client.costs.unknown_price() == flagged

    made = await client.identity.create_key("ci", roles=["auditor"])
    assert made.secret.startswith("ck_")
    rotated = await client.identity.rotate_key(made.api_key.api_key_id, overlap=timedelta(hours=1))
    assert rotated.secret != made.secret
    assert (await client.identity.revoke_key(made.api_key.api_key_id)).HasField("revoke_time")
    account = await client.identity.create_service_account("nightly", roles=["auditor"])
    assert (await client.identity.disable_service_account(account.service_account_id)).HasField("disable_time")
    assert len(await all_of(client.identity.list_service_accounts())) == 1
    assert (await client.identity.rotate_signing_key()).key_id == "access-2"
    assert [key.kid for key in await client.identity.key_set()] == ["access-1"]
    assert len(await all_of(client.identity.list_keys())) == 1
    assert await client.access.grant("user:anna", "editor", "project:claims")
    assert not await client.access.grant("user:anna", "editor", "project:claims")
    assert (await client.access.check("user:anna", "editor", "project:claims")).allowed
    assert [one.user for one in await all_of(client.access.relations(object="project:claims"))] == ["user:anna"]
    assert await client.access.revoke("user:anna", "editor", "project:claims")
    assert not await client.access.revoke("user:anna", "editor", "project:claims")
    model = await client.access.model()
    assert await client.access.set_model(model.model, etag=model.etag) == model.etag
    assert (await client.tenants.create("acme")).admin_api_key
    assert [tenant.name for tenant in await all_of(client.tenants.list())] == ["acme"]
    assert (await client.status()).serving


async def test_a_call_that_takes_too_long_is_given_up(mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    connection = Connection(mesh.url, ApiKey(ADMIN_KEY))
    try:
        async with AsyncClient(mesh.url, api_key=ADMIN_KEY) as client:
            session = await a_session(client)
            request = session_service_pb2.WatchSessionRequest(session_id=session)
            began = time.monotonic()
            with pytest.raises(errors.TimedOut):
                # The client's own watch has no limit of its own.
                await all_of(connection.stream(client.sessions._stub.WatchSession, request, timeout=0.3))
            assert time.monotonic() - began < 5
    finally:
        await connection.close()


async def test_closing_twice_is_harmless(mesh: FakeMesh) -> None:
    client = AsyncClient(mesh.url, api_key=ADMIN_KEY)
    await client.close()
    await client.close()
