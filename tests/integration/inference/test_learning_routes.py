"""Routes that choose by what they have seen, from the wire to Postgres: what they keep, share and are told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from comitia.inference.v1 import generation_pb2, model_pb2, model_service_pb2
from services.inference.domain.routing.lesson import ArmName, BanditKind, Learnt
from services.inference.storage.lesson_records import SqlLessonRecords
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings
from tests.support.providers.fake import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODES = (model_pb2.ROUTE_MODE_BANDIT_THOMPSON, model_pb2.ROUTE_MODE_BANDIT_LINUCB)
OPENAI = "openai/gpt-4o-mini"


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(start: StartInference, surroundings: Surroundings) -> AsyncIterator[InferenceMesh]:
    async with start() as running:
        yield running.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))


def a_bandit(
    mode: int = model_pb2.ROUTE_MODE_BANDIT_THOMPSON, **changes: Any
) -> model_service_pb2.SetModelRouteRequest:
    values: dict[str, Any] = {"name": "writer", "mode": mode, **changes}
    members = values.pop("members", (OPENAI, "stub"))
    route = model_pb2.ModelRoute(members=[model_pb2.RouteMember(deployment=one) for one in members], **values)
    return model_service_pb2.SetModelRouteRequest(route=route)


def a_score(hold_id: str, score: float, **changes: Any) -> model_service_pb2.ReportModelQualityRequest:
    return model_service_pb2.ReportModelQualityRequest(hold_id=hold_id, score=score, **changes)


async def once_known(mesh: InferenceMesh) -> Any:
    """Asks a replica that hears of the route shortly."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await mesh.generate(model="writer")
            except MeshError as error:
                if error.kind is not ErrorKind.NOT_FOUND:
                    raise
            await asyncio.sleep(0.02)


async def arms(mesh: InferenceMesh) -> dict[tuple[str, str], tuple[int, list[float]]]:
    """Reads what was learnt behind the service's back."""
    query = text("SELECT * FROM bandit_arm WHERE tenant_id = :tenant")
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        rows = (await scope.execute(query, {"tenant": mesh.principal.tenant})).all()
    return {(row.kind, row.arm): (row.pulls, list(row.sums)) for row in rows}


@pytest.mark.parametrize("mode", MODES)
async def test_a_bandit_is_set_asked_and_told_how_good_its_answers_were(mesh: InferenceMesh, mode: int) -> None:
    wanted = a_bandit(mode, sla=Duration(seconds=20), reward=model_pb2.RewardPolicy(quality_permille=1000))
    route = (await mesh.call("SetModelRoute", wanted)).route
    assert (route.mode, route.sla.seconds, route.reward.dear_nano_usd) == (mode, 20, 10_000_000)
    shown = await mesh.call("GetModelRoute", model_service_pb2.GetModelRouteRequest(name="writer"))
    assert shown.route == route
    answers = [await mesh.generate(model="writer") for _ in range(4)]
    for answer in answers:
        await mesh.call("ReportModelQuality", a_score(answer.hold_id, 0.75))
    learnt = await arms(mesh)
    kind = "thompson" if mode == model_pb2.ROUTE_MODE_BANDIT_THOMPSON else "linucb"
    assert {key[0] for key in learnt} == {kind}
    assert sum(pulls for pulls, _ in learnt.values()) == 4
    # Nothing but quality counts here: the sum of the rewards is that of the scores.
    earned = sum(sums[0] if kind == "thompson" else sums[21] for _, sums in learnt.values())
    assert earned == pytest.approx(3.0)


async def test_what_was_learnt_survives_a_restart_and_replicas_add_to_it(
    mesh: InferenceMesh, start: StartInference
) -> None:
    await mesh.call("SetModelRoute", a_bandit())
    told = [await mesh.generate(model="writer") for _ in range(3)]
    async with start() as replica:
        other = replica.speaking_as(mesh.principal)
        hold_id = (await once_known(other)).hold_id
        # Whichever replica is told of it.
        await mesh.call("ReportModelQuality", a_score(hold_id, 1.0))
        for answer in told:
            await other.call("ReportModelQuality", a_score(answer.hold_id, 1.0))
    learnt = await arms(mesh)
    assert sum(pulls for pulls, _ in learnt.values()) == 4
    async with start() as replica:
        other = replica.speaking_as(mesh.principal)
        hold_id = (await once_known(other)).hold_id
        await other.call("ReportModelQuality", a_score(hold_id, 0.0))
        assert sum(pulls for pulls, _ in (await arms(mesh)).values()) == 5


async def test_of_more_arms_than_a_replica_can_know_it_reads_the_newest(mesh: InferenceMesh) -> None:
    tenant, one = mesh.principal.tenant, Learnt(pulls=1, sums=(0.5,))
    names = [ArmName(tenant=tenant, route="writer", kind=BanditKind.THOMPSON, arm=f"acme/{name}@1") for name in "abc"]
    async with (
        sql_engine(mesh.urls.app, pool_size=1) as app,
        sql_engine(mesh.urls.maintenance, pool_size=1) as maintenance,
    ):
        records = SqlLessonRecords(app, maintenance, most_arms=2)
        for name in names:
            await records.add(tenant, {name: one}, ())
        moment, newest = await records.since(None)
        assert list(newest) == [names[2], names[1]]
        assert list((await records.since(moment))[1]) == list(newest)


async def test_a_quality_is_told_once_by_its_own_tenant_and_project_and_of_a_bandits_answer(
    mesh: InferenceMesh, surroundings: Surroundings
) -> None:
    await mesh.call("SetModelRoute", a_bandit())
    hold_id = (await mesh.generate(model="writer")).hold_id
    keys, tenant = surroundings.keys, mesh.principal.tenant
    missing = "not_found/NOT_FOUND"
    assert (
        await mesh.speaking_as(keys.principal(tenant=TenantId(uuid4()))).refused(
            "ReportModelQuality", a_score(hold_id, 1.0)
        )
        == missing
    )
    elsewhere = mesh.speaking_as(keys.principal(tenant=tenant, project="elsewhere"))
    assert await elsewhere.refused("ReportModelQuality", a_score(hold_id, 1.0)) == missing
    assert await mesh.refused("ReportModelQuality", a_score(SystemIds().new("hold"), 1.0)) == missing
    plain = (await mesh.generate(model=OPENAI)).hold_id
    assert await mesh.refused("ReportModelQuality", a_score(plain, 1.0)) == missing
    assert await mesh.refused("ReportModelQuality", a_score("hold_x", 1.0)) == "invalid/INVALID_FIELD/hold_id"
    assert await mesh.refused("ReportModelQuality", a_score(hold_id, 1.5)) == "invalid/INVALID_FIELD/score"
    once = a_score(hold_id, 1.0, request_id=str(uuid4()))
    await mesh.call("ReportModelQuality", once)
    await mesh.call("ReportModelQuality", once)
    assert await mesh.refused("ReportModelQuality", a_score(hold_id, 1.0)) == "exists/ALREADY_EXISTS"


async def test_nobody_says_after_a_day_how_good_an_answer_was(mesh: InferenceMesh, start: StartInference) -> None:
    await mesh.call("SetModelRoute", a_bandit())
    old, fresh = [(await mesh.generate(model="writer")).hold_id for _ in range(2)]
    await mesh.call("ReportModelQuality", a_score(fresh, 1.0))
    late = text("UPDATE learnt_answer SET answer_time = now() - interval '25 hours' WHERE tenant_id = :tenant")
    async with sql_engine(mesh.urls.migrator, pool_size=1) as engine, engine.begin() as connection:
        await connection.execute(text("ALTER TABLE learnt_answer NO FORCE ROW LEVEL SECURITY"))
        await connection.execute(late, {"tenant": mesh.principal.tenant})
        await connection.execute(text("ALTER TABLE learnt_answer FORCE ROW LEVEL SECURITY"))
    assert await mesh.refused("ReportModelQuality", a_score(old, 1.0)) == "not_found/NOT_FOUND"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reward": model_pb2.RewardPolicy(quality_permille=300)}, "route.reward"),
        ({"reward": model_pb2.RewardPolicy(quality_permille=1001)}, "route.reward.quality_permille"),
        ({"reward": model_pb2.RewardPolicy(dear_nano_usd=-1)}, "route.reward.dear_nano_usd"),
        ({"mode": model_pb2.ROUTE_MODE_CHAIN, "sla": Duration(seconds=1)}, "route.sla"),
        ({"mode": model_pb2.ROUTE_MODE_CHAIN, "reward": model_pb2.RewardPolicy()}, "route.reward"),
        ({"sla": Duration(seconds=0)}, "route.sla"),
        ({"mode": 99}, "route.mode"),
    ],
)
async def test_a_route_that_says_what_nobody_goes_by_is_refused(
    mesh: InferenceMesh, changes: dict[str, Any], field: str
) -> None:
    assert await mesh.refused("SetModelRoute", a_bandit(**changes)) == f"invalid/INVALID_FIELD/{field}"


async def test_a_tiered_route_asks_a_tier_within_a_time_and_says_what_it_chose(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with start(private_endpoints=True) as running:
        mesh = running.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
        for name, tier in (("acme/silver", model_pb2.MODEL_TIER_SILVER), ("acme/gold", model_pb2.MODEL_TIER_GOLD)):
            version = model_pb2.ModelVersion(
                adapter="openai", model="gpt-4o-mini", base_url=surroundings.provider.openai_base_url, tier=tier
            )
            request = model_service_pb2.CreateModelDeploymentRequest(name=name, version=version, api_key=KEY)
            made = (await mesh.call("CreateModelDeployment", request)).deployment
            check = model_service_pb2.CheckModelVersionRequest(deployment_id=made.deployment_id, version=1)
            await mesh.call("CheckModelVersion", check)
        wanted = a_bandit(
            model_pb2.ROUTE_MODE_TIERED,
            members=("acme/silver", "acme/gold", "stub"),
            min_tier=model_pb2.MODEL_TIER_GOLD,
            sla=Duration(seconds=30),
        )
        route = (await mesh.call("SetModelRoute", wanted)).route
        assert (route.mode, route.min_tier) == (model_pb2.ROUTE_MODE_TIERED, model_pb2.MODEL_TIER_GOLD)
        answer = await mesh.generate(model="writer")
        assert answer.deployment == "acme/gold"
        assert (answer.choice.route, answer.choice.mode, answer.choice.tier) == ("writer", "tiered", "gold")
        assert answer.choice.keeps_sla
        named = await mesh.generate(model="acme/gold")
        assert not named.HasField("choice")


async def test_a_tier_that_no_member_has_is_refused(mesh: InferenceMesh) -> None:
    wanted = a_bandit(model_pb2.ROUTE_MODE_TIERED, min_tier=model_pb2.MODEL_TIER_BRONZE)
    assert await mesh.refused("SetModelRoute", wanted) == "invalid/INVALID_FIELD/route.min_tier"


async def test_what_a_call_does_not_say_is_as_its_route_says(mesh: InferenceMesh) -> None:
    policy = generation_pb2.CallPolicy(cache=generation_pb2.CACHE_USE_NO)
    cache = model_pb2.CachePolicy(exact_ttl=Duration(seconds=60))
    wanted = a_bandit(model_pb2.ROUTE_MODE_CHAIN, members=(OPENAI,), policy=policy, cache=cache)
    route = (await mesh.call("SetModelRoute", wanted)).route
    assert route.policy.cache == generation_pb2.CACHE_USE_NO
    assert [(await mesh.generate(model="writer")).cached for _ in range(2)] == [False, False]
    said = generation_pb2.CallPolicy(cache=generation_pb2.CACHE_USE_DEFAULT)
    assert [(await mesh.generate(model="writer", policy=said)).cached for _ in range(2)] == [False, True]
    wanted.route.policy.sticky_key = "anna"
    assert await mesh.refused("SetModelRoute", wanted) == "invalid/INVALID_FIELD/route.policy.sticky_key"


async def test_a_shadow_is_asked_after_the_answer_and_what_it_did_can_be_read(
    mesh: InferenceMesh, surroundings: Surroundings
) -> None:
    shadow = model_pb2.ShadowPolicy(deployment="stub", permille=1000)
    wanted = a_bandit(model_pb2.ROUTE_MODE_CHAIN, members=(OPENAI,), shadow=shadow)
    assert (await mesh.call("SetModelRoute", wanted)).route.shadow == shadow
    about = model_service_pb2.GetModelComparisonRequest(name="writer")
    assert not (await mesh.call("GetModelComparison", about)).comparisons
    answers = [await mesh.generate(model="writer") for _ in range(3)]
    assert {one.deployment for one in answers} == {OPENAI}
    async with asyncio.timeout(10):
        while True:
            found = (await mesh.call("GetModelComparison", about)).comparisons
            if found and found[0].pairs == 3:
                break
            await asyncio.sleep(0.02)
    (seen,) = found
    assert (seen.shadow, seen.skipped, seen.route_side.failed, seen.shadow_side.failed) == ("stub", 0, 0, 0)
    assert seen.route_side.cost_nano_usd == pytest.approx(sum(one.cost_nano_usd for one in answers) / 3, abs=1)
    assert seen.shadow_side.characters > 0
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    assert await other.refused("GetModelComparison", about) == "not_found/MODEL_NOT_FOUND"
    # Nothing of a copy is on record but its money.
    assert {row.run_id[:6] for row in await mesh.rows()} == {"direct"}


@pytest.mark.parametrize(
    ("shadow", "refused"),
    [
        (model_pb2.ShadowPolicy(deployment=OPENAI, permille=1), "invalid/INVALID_FIELD/route.shadow.deployment"),
        (model_pb2.ShadowPolicy(deployment="stub"), "invalid/INVALID_FIELD/route.shadow.permille"),
        (model_pb2.ShadowPolicy(deployment="nobody", permille=1), "not_found/MODEL_NOT_FOUND"),
    ],
)
async def test_a_shadow_that_is_none_is_refused(
    mesh: InferenceMesh, shadow: model_pb2.ShadowPolicy, refused: str
) -> None:
    wanted = a_bandit(model_pb2.ROUTE_MODE_CHAIN, members=(OPENAI,), shadow=shadow)
    assert await mesh.refused("SetModelRoute", wanted) == refused
