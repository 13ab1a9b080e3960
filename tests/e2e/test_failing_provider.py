"""A provider that refuses, hesitates or talks nonsense: sessions park or fail with the reason, nothing half-written."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import FailedPrecondition, LimitReached, MeshUnavailable
from tests.e2e.conftest import Tenant

PARKED = session_pb2.SESSION_STATE_PARKED
SUCCEEDED = session_pb2.SESSION_STATE_SUCCEEDED
CANCELLED = session_pb2.SESSION_STATE_CANCELLED
#: Tries after which a session is shown as parked.
TRIES: Final = 3
#: Failures that are ready for a session that is cancelled: more than it can try until a cancel comes, however late.
READY: Final = 30
#: What a provider that asks to wait says, so that nobody waits long.
SOON: Final = [["retry-after-ms", "10"]]

#: Failures that may pass: what the provider does, and the reason that the parked session shows.
PASSING: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "429": ({"status": 429, "headers": SOON}, "PROVIDER_RATE_LIMITED"),
    "500": ({"status": 500, "headers": SOON}, "PROVIDER_UNAVAILABLE"),
    "html": ({"raw": "<html>Bad gateway</html>"}, "PROVIDER_UNAVAILABLE"),
    "nonsense": ({"raw": "data: {nonsense}\n\n"}, "PROVIDER_UNAVAILABLE"),
    "nothing": ({"raw": ""}, "PROVIDER_UNAVAILABLE"),
    "silence": ({"text": ""}, "PROVIDER_UNAVAILABLE"),
    "a break": ({"cut_after": 2}, "PROVIDER_UNAVAILABLE"),
}


@pytest.fixture
async def cast(tenant: Tenant) -> Tenant:
    """Gives a tenant with one agent."""
    await tenant.cast("Ada")
    return tenant


async def run_through(tenant: Tenant, what: str) -> tuple[list[str], session_pb2.Session]:
    """Runs a session whose provider fails; gives the reasons it was parked for, and how it ended.

    It fails three times where it says that it will soon be back, and the session goes on; else it fails until the
    session is cancelled, which is while it is parked.
    """
    behaviour, _ = PASSING[what]
    case = f"case {what}."
    for _ in range(TRIES if "headers" in behaviour else READY):
        tenant.provider.behave(match=[tenant.mark, case], **behaviour)
    tenant.says(f"At last, {what}", match=(case,))
    session = await tenant.start("Ada", about=case, max_rounds=1)
    reasons: list[str] = []
    # A deployment is left alone for twice as long each time that it fails again: the later cancels come, the longer.
    async with asyncio.timeout(100):
        async for event in tenant.client.sessions.watch(session.session_id):
            if event.state_changed.state == PARKED:
                assert len(event.state_changed.state_message) > 20
                reasons.append(event.state_changed.state_reason)
                if "headers" not in behaviour:
                    await tenant.client.sessions.cancel(session.session_id)
            if event.WhichOneof("event") == "session_ended":
                return reasons, event.session_ended
    raise AssertionError("the watch ended before the session")


async def test_a_session_parks_with_the_reason_until_it_goes_on_or_is_cancelled(cast: Tenant) -> None:
    # The one that asks to wait goes first: what fails besides has the deployment left alone, and then nobody hears why.
    told = {"429": await run_through(cast, "429")}
    async with asyncio.TaskGroup() as tasks:
        running = {what: tasks.create_task(run_through(cast, what)) for what in PASSING if what not in told}
    told |= {what: task.result() for what, task in running.items()}
    tries = dict[str, int]()
    for what, (reasons, ended) in told.items():
        behaviour, reason = PASSING[what]
        goes_on = "headers" in behaviour
        assert (reasons, ended.state) == ([reason], SUCCEEDED if goes_on else CANCELLED), what
        turns = await cast.turns(ended.session_id)
        assert [turn.output.content for turn in turns] == [f"At last, {what}"] * goes_on
        calls = [call for call in cast.provider.meter(f"case {what}.")["calls"] if "messages" in call["body"]]
        tries[what] = len(calls)
        # A cancel ends the tries. A provider that fails is left alone, so not each of them reaches it.
        assert tries[what] == TRIES + 1 if goes_on else tries[what] >= 1, what
    # What the provider counts as answered is charged, once, and nothing else: silence is an answer that costs.
    confirmed = [call for call in cast.provider.meter(cast.mark)["calls"] if call["confirmed"]]
    [charged] = [line for line in (await cast.client.costs.summary(by="kind")).lines if line.key == "generate"]
    assert len(confirmed) == charged.event_count == 2 + tries["silence"]
    assert charged.usage.input_tokens == sum(call["prompt_tokens"] for call in confirmed)
    assert charged.usage.output_tokens == sum(call["completion_tokens"] for call in confirmed)
    assert len([memory async for memory in cast.client.memories.list()]) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_session_fails_when_the_provider_refuses_for_good(cast: Tenant, status: int) -> None:
    cast.provider.behave(match=[cast.mark], status=status)
    session = await cast.start("Ada", max_rounds=2)
    # The failures before this may have the deployment left alone still.
    ended = await cast.ended(session.session_id, seconds=60)
    assert (ended.state, ended.state_reason) == (session_pb2.SESSION_STATE_FAILED, "PROVIDER_REFUSED")
    assert str(status) in ended.state_message
    assert (ended.turn_count, ended.rounds_executed, ended.cost_nano_usd) == (0, 0, 0)
    assert await cast.turns(session.session_id) == []
    assert [memory async for memory in cast.client.memories.list()] == []
    budget = await cast.client.costs.budget(ended.budget_id)
    assert (budget.spent_nano_usd, budget.held_nano_usd, budget.overrun_nano_usd) == (0, 0, 0)
    assert len(cast.provider.meter(cast.mark)["calls"]) == 1


async def test_when_one_of_two_fails_the_session_fails_once(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    tenant.provider.behave(match=[tenant.mark, "You are Ada."], status=401)
    tenant.says("Too late", match=("You are Bob.",), held=tenant.mark)
    session = await tenant.start("Ada", "Bob", strategy="parallel", max_rounds=2)
    ended = await tenant.ended(session.session_id)
    assert (ended.state_reason, ended.turn_count) == ("PROVIDER_REFUSED", 0)
    assert await tenant.turns(session.session_id) == []
    tenant.provider.release(tenant.mark)
    again = await tenant.client.sessions.get(session.session_id)
    assert again == ended


async def test_a_direct_caller_is_told_what_the_provider_did(tenant: Tenant) -> None:
    generate = tenant.client.models.generate
    tenant.provider.behave(match=[tenant.mark], status=401)
    with pytest.raises(FailedPrecondition) as refused:
        await generate(f"Hello {tenant.mark}")
    assert (refused.value.reason, refused.value.metadata["status"]) == ("PROVIDER_REFUSED", "401")
    assert "check the key" in refused.value.message
    tenant.provider.behave(match=[tenant.mark], status=429, headers=[["retry-after", "7"]])
    with pytest.raises(LimitReached) as limited:
        await generate(f"Hello {tenant.mark}")
    assert limited.value.reason == "PROVIDER_RATE_LIMITED"
    assert limited.value.retry_after is not None
    assert limited.value.retry_after.total_seconds() == 7
    for behaviour in ({"status": 500}, {"raw": "<html>"}, {"raw": ""}, {"cut_after": 1}):
        tenant.provider.behave(match=[tenant.mark], **behaviour)
        body = {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": f"Hello {tenant.mark}"}}]}]}
        answer = await tenant.rest.ask("POST", "/v1/generate", body)
        assert (answer.status, answer.reason) == (503, "PROVIDER_UNAVAILABLE")
        assert "openai/gpt-4o-mini" in answer.body["message"]
    tenant.provider.behave(match=[tenant.mark], status=500)
    with pytest.raises(MeshUnavailable):
        async for _ in tenant.client.models.stream(f"Hello {tenant.mark}"):
            pass
    assert (await tenant.client.costs.summary()).total_nano_usd == 0
