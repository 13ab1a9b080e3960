"""Models that tenants register, names to ask for, and rollouts: through the doors of a whole mesh."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI

from comitia.inference.v1 import model_pb2
from comitia_sdk.errors import AlreadyExists, NotFound
from tests.e2e.conftest import MakeTenant, Tenant, until
from tests.support.mesh import RunningMesh
from tests.support.providers.fake import KEY

#: Units of a split that are asked for, each of them twice.
UNITS: Final = [f"reader-{number}" for number in range(24)]


@pytest.fixture
async def ai(mesh: RunningMesh, tenant: Tenant) -> AsyncIterator[AsyncOpenAI]:
    """Gives OpenAI's client of a tenant of its own."""
    async with AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key=tenant.key, max_retries=0) as client:
        yield client


async def registered(tenant: Tenant, name: str, model: str) -> model_pb2.ModelDeployment:
    """Registers a model that the fake provider serves, and has it checked."""
    address = f"{tenant.provider.address}/v1"
    made = await tenant.client.models.register(name, adapter="openai", model=model, base_url=address, api_key=KEY)
    checked = await tenant.client.models.check(made.deployment_id, 1)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_READY, checked.check_failures
    return made


async def asked(tenant: Tenant, model: str, unit: str) -> str:
    """Asks by REST; gives the name of the deployment that answered."""
    part = {"text": {"text": f"How are rivers? {tenant.mark}"}}
    answer = await tenant.rest.ask(
        "POST",
        "/v1/generate",
        {
            "model": model,
            "messages": [{"role": "MESSAGE_ROLE_USER", "parts": [part]}],
            "policy": {"sticky_key": unit},
        },
    )
    assert answer.status == 200, answer.body
    return answer.body["generation"]["deployment"]


async def sides(tenant: Tenant) -> dict[str, str]:
    """Asks for `writer` for each unit, twice; gives who answered it."""
    first = {unit: await asked(tenant, "writer", unit) for unit in UNITS}
    assert first == {unit: await asked(tenant, "writer", unit) for unit in UNITS}, "a unit stays on its side"
    return first


async def test_a_model_that_embeds_is_asked_at_the_door_and_paid_for(ai: AsyncOpenAI, tenant: Tenant) -> None:
    made = await tenant.client.models.register(
        "acme/vectors",
        adapter="openai",
        model="text-embedding-3-large",
        base_url=f"{tenant.provider.address}/v1",
        api_key=KEY,
        embeds=True,
    )
    with pytest.raises(openai.BadRequestError) as unready:
        await ai.embeddings.create(model="acme/vectors", input="one")
    assert unready.value.code == "model_not_ready"
    checked = await tenant.client.models.check(made.deployment_id, 1)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_READY, checked.check_failures
    for name in ("acme/vectors", "acme/vectors@1", "text-embedding-3-large"):
        found = await ai.embeddings.create(model=name, input=[f"rivers {name} {tenant.mark}"])
        assert (found.model, len(found.data[0].embedding)) == ("text-embedding-3-large", 3)
    assert "acme/vectors" in [model.id async for model in await ai.models.list()]
    assert {call["model"] for call in tenant.provider.meter(tenant.mark)["calls"]} == {"text-embedding-3-large"}
    assert tenant.provider.meter(tenant.mark)["unheld"] == 0
    with pytest.raises(openai.NotFoundError):
        await ai.chat.completions.create(model="acme/vectors", messages=chat(tenant))
    with pytest.raises(openai.BadRequestError) as empty:
        await ai.embeddings.create(model="acme/vectors", input=[" "])
    assert empty.value.param == "input[0]"


def chat(tenant: Tenant) -> list[Any]:
    return [{"role": "user", "content": f"How are rivers? {tenant.mark}"}]


async def test_a_registered_model_and_its_alias_answer_at_every_door(ai: AsyncOpenAI, tenant: Tenant) -> None:
    await registered(tenant, "acme/writer", "gpt-4o")
    await tenant.client.models.set_route("writer", ["acme/writer", "openai/gpt-4o-mini"])
    for name in ("acme/writer", "writer"):
        answer = await tenant.client.models.generate(f"How are rivers? {tenant.mark}", model=name)
        assert (answer.deployment, answer.deployment_version, answer.model) == ("acme/writer", 1, "gpt-4o")
        raw = await ai.chat.completions.with_raw_response.create(model=name, messages=chat(tenant))
        assert raw.headers["x-comitia-deployment"] == "acme/writer"
        stream = await ai.chat.completions.create(model=name, messages=chat(tenant), stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"
    calls = tenant.provider.meter(tenant.mark)["calls"]
    assert {call["body"]["model"] for call in calls} == {"gpt-4o"}
    assert (await ai.models.retrieve("writer")).owned_by == "comitia"
    assert {"acme/writer", "writer", "default", "openai/gpt-4o-mini"} <= {one.id async for one in ai.models.list()}


async def test_nobody_else_finds_what_a_tenant_registered(
    mesh: RunningMesh, tenant: Tenant, make_tenant: MakeTenant
) -> None:
    made = await registered(tenant, "acme/writer", "gpt-4o")
    await tenant.client.models.set_route("writer", ["acme/writer"])
    stranger = await make_tenant()
    with pytest.raises(NotFound):
        await stranger.client.models.get(made.deployment_id)
    async with AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key=stranger.key, max_retries=0) as theirs:
        for name in ("acme/writer", "writer"):
            with pytest.raises(NotFound):
                await stranger.client.models.generate("How are rivers?", model=name)
            with pytest.raises(openai.NotFoundError):
                await theirs.chat.completions.create(model=name, messages=chat(stranger))
        with pytest.raises(openai.NotFoundError):
            await theirs.models.retrieve("writer")
        assert not {"acme/writer", "writer"} & {one.id async for one in theirs.models.list()}


async def test_who_a_client_asks_for_stays_on_one_side_at_the_doors(ai: AsyncOpenAI, tenant: Tenant) -> None:
    await registered(tenant, "acme/writer", "gpt-4o-mini")
    await registered(tenant, "acme/next", "gpt-4o")
    await tenant.client.models.set_route("writer", {"acme/writer": 500, "acme/next": 500})

    async def answered(user: str) -> str:
        raw = await ai.chat.completions.with_raw_response.create(model="writer", messages=chat(tenant), user=user)
        return raw.headers["x-comitia-deployment"]

    first = {user: await answered(user) for user in UNITS}
    assert set(first.values()) == {"acme/writer", "acme/next"}
    assert first == {user: await answered(user) for user in UNITS}


async def test_a_route_that_learns_does_so_at_the_doors_and_has_its_answers_compared(
    ai: AsyncOpenAI, tenant: Tenant
) -> None:
    models = tenant.client.models
    await registered(tenant, "acme/writer", "gpt-4o-mini")
    await registered(tenant, "acme/next", "gpt-4o")
    made = await models.set_route(
        "writer",
        ["acme/writer", "openai/gpt-4o-mini"],
        mode="bandit_linucb",
        sla_seconds=20,
        shadow="acme/next",
        shadow_permille=1000,
    )
    assert made.shadow.permille == 1000
    for _ in range(3):
        raw = await ai.chat.completions.with_raw_response.create(model="writer", messages=chat(tenant))
        assert raw.headers["x-comitia-choice"] == "bandit_linucb unknown"
        await models.report_quality(raw.headers["x-comitia-hold-id"], 0.5)
        with pytest.raises(AlreadyExists):
            await models.report_quality(raw.headers["x-comitia-hold-id"], 0.6)
    async with asyncio.timeout(20):
        while not (found := await models.comparison("writer")) or found[0].pairs < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    [seen] = found
    assert (seen.shadow, seen.pairs, seen.same_form_permille, seen.similarity) == ("acme/next@1", 3, 1000, 1.0)
    assert (seen.skipped, seen.route_side.failed, seen.shadow_side.failed) == (0, 0, 0)
    assert seen.shadow_side.cost_nano_usd > seen.route_side.cost_nano_usd > 0


async def test_weights_and_rollouts_divide_callers_who_stay_where_they_are(tenant: Tenant) -> None:
    models = tenant.client.models
    await registered(tenant, "acme/writer", "gpt-4o-mini")
    await registered(tenant, "acme/next", "gpt-4o")
    await models.set_route("writer", {"acme/writer": 500, "acme/next": 500})
    assert set((await sides(tenant)).values()) == {"acme/writer", "acme/next"}

    await models.set_route("writer", ["acme/writer"])
    assert set((await sides(tenant)).values()) == {"acme/writer"}
    rollout = await models.start_rollout(
        "writer",
        stable="acme/writer",
        stable_version=1,
        canary="acme/next",
        canary_version=1,
        kind="weighted",
        steps_permille=[300, 600],
    )
    few = await sides(tenant)
    assert set(few.values()) == {"acme/writer", "acme/next"}
    grown = await models.promote(rollout.rollout_id)
    assert (grown.state, grown.share_permille) == (model_pb2.ROLLOUT_STATE_RUNNING, 600)
    more = await sides(tenant)
    assert {unit for unit in UNITS if few[unit] == "acme/next"} < {unit for unit in UNITS if more[unit] == "acme/next"}
    back = await models.roll_back(rollout.rollout_id)
    assert (back.state, back.share_permille) == (model_pb2.ROLLOUT_STATE_ROLLED_BACK, 0)
    assert set((await sides(tenant)).values()) == {"acme/writer"}

    again = await models.start_rollout(
        "writer", stable="acme/writer", stable_version=1, canary="acme/next", canary_version=1, steps_permille=[100]
    )
    done = await models.promote(again.rollout_id)
    assert (done.state, done.decided_by != "judge") == (model_pb2.ROLLOUT_STATE_PROMOTED, True)
    assert set((await sides(tenant)).values()) == {"acme/next"}
    assert [one.deployment for one in (await models.route("writer")).members] == ["acme/next"]


async def test_a_model_is_swapped_under_load_without_a_request_that_fails(ai: AsyncOpenAI, tenant: Tenant) -> None:
    models = tenant.client.models
    await registered(tenant, "acme/writer", "gpt-4o-mini")
    await registered(tenant, "acme/next", "gpt-4o")
    await models.set_route("writer", ["acme/writer"])
    by: list[str] = []
    over = asyncio.Event()

    async def caller() -> None:
        while not over.is_set():
            raw = await ai.chat.completions.with_raw_response.create(
                model="writer", messages=[{"role": "user", "content": f"How are rivers? {tenant.mark}"}]
            )
            by.append(raw.headers["x-comitia-deployment"])

    async def asked_by(name: str, count: int) -> None:
        """Waits until so many more requests were answered by one."""
        start = len(by)

        async def so_many() -> bool:
            return by[start:].count(name) >= count

        assert await until(so_many, seconds=20)

    async with asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(caller())
        await asked_by("acme/writer", 10)
        for name in ("acme/next", "acme/writer", "acme/next"):
            await models.set_route("writer", [name])
            seen = len(by)
            await asked_by(name, 10)
            # What was under way goes on by the version that it began with; all others go by the new one at once.
            others = [one for one in by[seen + 4 :] if one != name]
            assert len(others) <= 4, others
        over.set()
    assert len(by) >= 40
