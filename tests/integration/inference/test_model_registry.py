"""Deployments, routes and rollouts, from the wire to the provider, on two replicas and without a database."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1 import model_pb2, model_service_pb2
from services.inference.domain.deployment import usual_payee
from services.inference.storage import registry_feed
from services.inference.storage.registry_feed import SqlRegistryFeed
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings, a_request
from tests.support.data_keys import MemoryDataKeys
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_AGO = Timestamp(seconds=1)


@pytest_asyncio.fixture(loop_scope="module")
async def second() -> AsyncIterator[FakeProvider]:
    """A provider beside the first, at an address that tenants name."""
    async with fake_provider() as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(start: StartInference, surroundings: Surroundings) -> AsyncIterator[InferenceMesh]:
    async with start(private_endpoints=True) as running:
        yield running.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))


def a_version(provider: FakeProvider, **changes: Any) -> model_pb2.ModelVersion:
    values: dict[str, Any] = {"adapter": "openai", "model": "gpt-4o-mini", "base_url": provider.openai_base_url}
    return model_pb2.ModelVersion(**{**values, **changes})


async def a_deployment(mesh: InferenceMesh, name: str, provider: FakeProvider) -> model_pb2.ModelDeployment:
    """Registers a deployment and has it checked."""
    request = model_service_pb2.CreateModelDeploymentRequest(name=name, version=a_version(provider), api_key=KEY)
    made = (await mesh.call("CreateModelDeployment", request)).deployment
    checked = await checked_version(mesh, made.deployment_id, 1)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_READY, checked.check_failures
    return made


async def checked_version(mesh: InferenceMesh, deployment_id: str, number: int) -> model_pb2.ModelVersion:
    request = model_service_pb2.CheckModelVersionRequest(deployment_id=deployment_id, version=number)
    return (await mesh.call("CheckModelVersion", request)).version


async def a_route(mesh: InferenceMesh, name: str, *members: str, **changes: Any) -> model_pb2.ModelRoute:
    route = model_pb2.ModelRoute(
        name=name, members=[model_pb2.RouteMember(deployment=one) for one in members], **changes
    )
    return (await mesh.call("SetModelRoute", model_service_pb2.SetModelRouteRequest(route=route))).route


def a_rollout(stable: tuple[str, int], canary: tuple[str, int], **changes: Any) -> Any:
    values: dict[str, Any] = {
        "route": "writer",
        "stable": model_pb2.ModelVersionRef(deployment=stable[0], version=stable[1]),
        "canary": model_pb2.ModelVersionRef(deployment=canary[0], version=canary[1]),
        "steps_permille": [500],
    }
    return model_service_pb2.StartModelRolloutRequest(rollout=model_pb2.ModelRollout(**{**values, **changes}))


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what is waited for happens in a background of the service
            await asyncio.sleep(0.02)


async def test_a_deployment_is_registered_checked_and_asked_by_its_name(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    assert made.deployment_id.startswith("dep_")
    answer = await mesh.generate(model="acme/writer")
    assert answer.provider == "openai"
    assert answer.parts[0].text.text == Behaviour().text
    # The check and the call, each with a hold of its own; the key is the tenant's.
    assert len(second.meter.confirmed) == 2
    assert len(await mesh.charges()) == 2
    assert "acme/writer" in [
        one.name for one in (await mesh.call("ListModels", model_service_pb2.ListModelsRequest())).models
    ]
    counted = await mesh.call("CountTokens", pb.CountTokensRequest(model="acme/writer", messages=a_request().messages))
    assert counted.input_tokens_bound > 0


async def an_embedder(mesh: InferenceMesh, provider: FakeProvider, **changes: Any) -> model_pb2.ModelVersion:
    """Registers `acme/vectors` and has it checked."""
    request = model_service_pb2.CreateModelDeploymentRequest(
        name="acme/vectors",
        task=model_pb2.MODEL_TASK_EMBED,
        version=a_version(provider, model="text-embedding-3-small", **changes),
        api_key=KEY,
    )
    made = (await mesh.call("CreateModelDeployment", request)).deployment
    assert made.task == model_pb2.MODEL_TASK_EMBED
    return await checked_version(mesh, made.deployment_id, 1)


def some_texts(*texts: str, model: str = "acme/vectors") -> pb.EmbedRequest:
    return pb.EmbedRequest(model=model, texts=texts)


async def test_a_model_that_embeds_is_registered_checked_and_asked_with_its_own_key_under_law_and_money(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    checked = await an_embedder(mesh, second)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_READY, checked.check_failures
    made = await mesh.call("Embed", some_texts("Rivers meet.", "So do seas."))
    assert (len(made.embeddings), made.model) == (2, "text-embedding-3-small")
    assert len(second.meter.calls) == 2
    assert {call.headers["authorization"] for call in second.meter.calls} == {f"Bearer {KEY}"}
    assert len({call.hold_id for call in second.meter.calls} - {""}) == 2
    charges = await mesh.charges()
    assert [charge.cost_nano_usd > 0 for charge in charges] == [True, True]
    again = await mesh.call("Embed", some_texts("Rivers meet."))
    assert (again.embeddings[0], len(second.meter.calls)) == (made.embeddings[0], 2)
    mesh.law.blocked.add("secret")
    assert await mesh.refused("Embed", some_texts("a secret")) == "denied/LAW_BLOCKED"
    await mesh.limit(1)
    assert await mesh.refused("Embed", some_texts("Something new.")) == "exhausted/BUDGET_EXHAUSTED"
    assert len(second.meter.calls) == 2


async def test_what_embeds_answers_nobody_and_is_no_member_of_a_route(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    await an_embedder(mesh, second)
    await a_deployment(mesh, "acme/writer", second)
    assert await mesh.refused("Generate", a_request(model="acme/vectors")) == "not_found/MODEL_NOT_FOUND"
    assert await mesh.refused("Embed", some_texts("x", model="acme/writer")) == "not_found/MODEL_NOT_FOUND"
    route = model_pb2.ModelRoute(name="writer", members=[model_pb2.RouteMember(deployment="acme/vectors")])
    refused = await mesh.refused("SetModelRoute", model_service_pb2.SetModelRouteRequest(route=route))
    assert refused == "precondition/MODEL_INCOMPATIBLE"


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        (Behaviour(status=401), "PROVIDER_REFUSED"),
        (Behaviour(raw="<html>"), "PROVIDER_UNAVAILABLE"),
        (Behaviour(raw='{"data": [{"embedding": [0.0, 0.0]}]}'), "PROVIDER_UNAVAILABLE"),
        (Behaviour(raw='{"data": []}'), "PROVIDER_UNAVAILABLE"),
    ],
)
async def test_a_model_that_makes_no_vectors_is_refused_and_never_asked(
    mesh: InferenceMesh, second: FakeProvider, behaviour: Behaviour, found: str
) -> None:
    second.next(behaviour)
    checked = await an_embedder(mesh, second)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_REFUSED
    assert found in checked.check_failures[0]
    assert await mesh.refused("Embed", some_texts("x")) == "precondition/MODEL_NOT_READY"


async def test_a_model_that_embeds_and_is_retired_is_asked_no_more(
    mesh: InferenceMesh, surroundings: Surroundings, second: FakeProvider
) -> None:
    await an_embedder(mesh, second)
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    assert await other.refused("Embed", some_texts("x")) == "not_found/MODEL_NOT_FOUND"
    models = (await mesh.call("ListModels", model_service_pb2.ListModelsRequest())).models
    (own,) = (one for one in models if one.name == "acme/vectors")
    assert own.task == model_pb2.MODEL_TASK_EMBED
    retire = model_service_pb2.RetireModelDeploymentRequest(deployment_id=own.deployment_id)
    await mesh.call("RetireModelDeployment", retire)
    assert await mesh.refused("Embed", some_texts("x")) == "not_found/MODEL_NOT_FOUND"


async def test_a_model_that_embeds_stands_where_tenants_may_name_it(
    start: StartInference, surroundings: Surroundings, second: FakeProvider
) -> None:
    async with start() as mesh:
        checked = await an_embedder(mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4()))), second)
    assert "EGRESS_REFUSED" in checked.check_failures[0]
    assert second.meter.calls == []


@pytest.mark.parametrize("adapter", ["openai", "openai_responses", "anthropic"])
async def test_a_version_may_be_asked_by_the_official_client_of_its_provider(
    mesh: InferenceMesh, second: FakeProvider, adapter: str
) -> None:
    address = second.anthropic_base_url if adapter == "anthropic" else second.openai_base_url
    model = "claude-haiku-4-5" if adapter == "anthropic" else "gpt-4o-mini"
    sdk = model_pb2.ADAPTER_FORM_SDK
    version = a_version(second, adapter=adapter, model=model, base_url=address, form=sdk)
    request = model_service_pb2.CreateModelDeploymentRequest(name=f"acme/{adapter}", version=version, api_key=KEY)
    made = (await mesh.call("CreateModelDeployment", request)).deployment
    checked = await checked_version(mesh, made.deployment_id, 1)
    assert (checked.state, checked.form) == (model_pb2.MODEL_VERSION_STATE_READY, sdk), checked.check_failures
    assert (await mesh.generate(model=f"acme/{adapter}")).parts[0].text.text == Behaviour().text
    *_, last = [event async for event in mesh.stream(model=f"acme/{adapter}")]
    assert last.generation.provider == usual_payee(adapter)
    assert len(second.meter.confirmed) == len({call.hold_id for call in second.meter.calls}) == 3
    second.next(Behaviour(status=429, headers=(("retry-after", "7"),)))
    refused = await mesh.refused("Generate", a_request(model=f"acme/{adapter}"))
    assert refused == "exhausted/PROVIDER_RATE_LIMITED"


async def test_a_version_that_does_not_answer_is_refused_and_never_asked(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    request = model_service_pb2.CreateModelDeploymentRequest(
        name="acme/wrong", version=a_version(second), api_key="sk-wrong"
    )
    made = (await mesh.call("CreateModelDeployment", request)).deployment
    assert await mesh.refused("Generate", a_request(model="acme/wrong")) == "precondition/MODEL_NOT_READY"
    assert await mesh.refused("Generate", a_request(model="acme/wrong@1")) == "precondition/MODEL_NOT_READY"
    second.next(Behaviour(status=401))
    checked = await checked_version(mesh, made.deployment_id, 1)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_REFUSED
    assert "PROVIDER_REFUSED" in checked.check_failures[0]
    assert await mesh.refused("Generate", a_request(model="acme/wrong")) == "precondition/MODEL_NOT_READY"
    assert await mesh.refused("Generate", a_request(model="acme/wrong@1")) == "precondition/MODEL_NOT_READY"


@pytest.mark.parametrize(
    ("status", "refused"),
    [(429, "exhausted/PROVIDER_RATE_LIMITED"), (503, "unavailable/PROVIDER_UNAVAILABLE")],
)
async def test_a_moment_without_an_answer_refuses_no_version_that_was_ready(
    mesh: InferenceMesh, second: FakeProvider, status: int, refused: str
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    about = {"deployment_id": made.deployment_id}
    second.next(Behaviour(status=status))
    again = model_service_pb2.CheckModelVersionRequest(version=1, request_id=str(uuid4()), **about)
    assert await mesh.refused("CheckModelVersion", again) == refused
    shown = await mesh.call("GetModelDeployment", model_service_pb2.GetModelDeploymentRequest(**about))
    assert shown.deployment.versions[0].state == model_pb2.MODEL_VERSION_STATE_READY
    assert shown.deployment.priced
    second.next(Behaviour(status=401))
    found = await checked_version(mesh, made.deployment_id, 1)
    assert found.state == model_pb2.MODEL_VERSION_STATE_REFUSED


async def test_nobody_sees_or_asks_what_another_tenant_registered(
    mesh: InferenceMesh, surroundings: Surroundings, second: FakeProvider
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    await a_route(mesh, "writer", "acme/writer", "openai/gpt-4o-mini")
    started = await mesh.call("StartModelRollout", a_rollout(("openai/gpt-4o-mini", 0), ("stub", 0)))
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    about, rollout = {"deployment_id": made.deployment_id}, {"rollout_id": started.rollout.rollout_id}
    models = model_service_pb2
    for method, request, reason in (
        ("GetModelDeployment", models.GetModelDeploymentRequest(**about), "MODEL_NOT_FOUND"),
        ("AddModelVersion", models.AddModelVersionRequest(version=a_version(second), **about), "MODEL_NOT_FOUND"),
        ("CheckModelVersion", models.CheckModelVersionRequest(version=1, **about), "MODEL_NOT_FOUND"),
        ("RetireModelDeployment", models.RetireModelDeploymentRequest(**about), "MODEL_NOT_FOUND"),
        ("GetModelRoute", models.GetModelRouteRequest(name="writer"), "MODEL_NOT_FOUND"),
        ("DeleteModelRoute", models.DeleteModelRouteRequest(name="writer"), "MODEL_NOT_FOUND"),
        ("GetModelRollout", models.GetModelRolloutRequest(**rollout), "ROLLOUT_NOT_FOUND"),
        ("PromoteModelRollout", models.PromoteModelRolloutRequest(**rollout), "ROLLOUT_NOT_FOUND"),
        ("RollBackModelRollout", models.RollBackModelRolloutRequest(**rollout), "ROLLOUT_NOT_FOUND"),
        ("Generate", a_request(model="acme/writer"), "MODEL_NOT_FOUND"),
        ("Generate", a_request(model="writer"), "MODEL_NOT_FOUND"),
    ):
        assert await other.refused(method, request) == f"not_found/{reason}", method
    assert not (await other.call("ListModelRoutes", models.ListModelRoutesRequest())).routes
    assert not (await other.call("ListModelRollouts", models.ListModelRolloutsRequest())).rollouts


async def test_a_repeated_request_changes_nothing_twice_and_each_change_is_on_record(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    request = model_service_pb2.CreateModelDeploymentRequest(
        name="acme/once", version=a_version(second, region="eu-west-1"), api_key=KEY, request_id=str(uuid4())
    )
    first = await mesh.call("CreateModelDeployment", request)
    assert await mesh.call("CreateModelDeployment", request) == first
    query = text("SELECT action, target, details FROM audit_entry WHERE tenant_id = :tenant ORDER BY position")
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        entries = list((await scope.execute(query, {"tenant": mesh.principal.tenant})).all())
    (entry,) = entries
    assert (entry.action, entry.target) == ("models.write", first.deployment.deployment_id)
    assert entry.details["region"] == "eu-west-1", "who says so is on record"
    assert KEY not in str(entry.details)


async def test_a_repeated_check_asks_nobody_again(mesh: InferenceMesh, second: FakeProvider) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    asked = len(second.meter.calls)
    request = model_service_pb2.CheckModelVersionRequest(
        deployment_id=made.deployment_id, version=1, request_id=str(uuid4())
    )
    first = await mesh.call("CheckModelVersion", request)
    assert await mesh.call("CheckModelVersion", request) == first
    assert len(second.meter.calls) == asked + 1


async def test_a_key_is_sealed_and_shown_to_nobody(mesh: InferenceMesh, second: FakeProvider) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    shown = await mesh.call(
        "GetModelDeployment", model_service_pb2.GetModelDeploymentRequest(deployment_id=made.deployment_id)
    )
    assert KEY not in str(shown)
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        query = text("SELECT secret, spec FROM model_version WHERE tenant_id = :tenant")
        rows = list((await scope.execute(query, {"tenant": mesh.principal.tenant})).all())
    assert all(row.secret and KEY.encode() not in row.secret and KEY not in str(row.spec) for row in rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "https://elsewhere.example/v1"},
        {"base_url": ""},
        {"adapter": "anthropic"},
    ],
)
async def test_a_key_goes_to_no_other_place_than_the_one_it_was_given_for(
    mesh: InferenceMesh, second: FakeProvider, changes: dict[str, Any]
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    about = {"deployment_id": made.deployment_id}
    elsewhere = model_service_pb2.AddModelVersionRequest(version=a_version(second, **changes), **about)
    assert await mesh.refused("AddModelVersion", elsewhere) == "invalid/INVALID_FIELD/api_key"
    again = model_service_pb2.AddModelVersionRequest(version=a_version(second, model="gpt-4o"), **about)
    assert len((await mesh.call("AddModelVersion", again)).deployment.versions) == 2


async def test_a_model_without_a_key_may_move(mesh: InferenceMesh, second: FakeProvider) -> None:
    keyless = model_service_pb2.CreateModelDeploymentRequest(name="acme/open", version=a_version(second))
    made = (await mesh.call("CreateModelDeployment", keyless)).deployment
    moved = a_version(second, base_url="https://elsewhere.example/v1")
    request = model_service_pb2.AddModelVersionRequest(version=moved, deployment_id=made.deployment_id)
    assert len((await mesh.call("AddModelVersion", request)).deployment.versions) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "no spaces"}, "name"),
        ({"name": "a@1"}, "name"),
        ({"version": {"adapter": "carrier_pigeon"}}, "version.adapter"),
        ({"version": {"adapter": "stub"}}, "version.adapter"),
        ({"version": {"model": ""}}, "version.model"),
        ({"version": {"base_url": "ftp://models"}}, "version.base_url"),
        ({"version": {"base_url": "http://user:secret@models"}}, "version.base_url"),
        ({"version": {"context_tokens": -1}}, "version.context_tokens"),
        (
            {"version": {"adapter": "vllm", "capabilities": [model_pb2.MODEL_CAPABILITY_DOCUMENTS]}},
            "version.capabilities",
        ),
        ({"version": {"adapter": "vllm", "form": model_pb2.ADAPTER_FORM_SDK}}, "version.form"),
        ({"task": 9}, "task"),
        ({"task": model_pb2.MODEL_TASK_EMBED, "version": {"adapter": "anthropic"}}, "version.adapter"),
        ({"task": model_pb2.MODEL_TASK_EMBED, "version": {"form": model_pb2.ADAPTER_FORM_SDK}}, "version.form"),
        (
            {
                "task": model_pb2.MODEL_TASK_EMBED,
                "version": {"capabilities": [model_pb2.MODEL_CAPABILITY_TOOLS]},
            },
            "version.capabilities",
        ),
        (
            {"task": model_pb2.MODEL_TASK_EMBED, "version": {"requests_per_minute": 5}},
            "version.requests_per_minute",
        ),
    ],
)
async def test_a_deployment_that_is_none_is_refused(
    mesh: InferenceMesh, second: FakeProvider, changes: dict[str, Any], field: str
) -> None:
    version = a_version(second, **changes.pop("version", {}))
    values: dict[str, Any] = {"name": "acme/x", "version": version, **changes}
    request = model_service_pb2.CreateModelDeploymentRequest(**values)
    assert await mesh.refused("CreateModelDeployment", request) == f"invalid/INVALID_FIELD/{field}"


async def test_what_a_version_says_of_its_making_is_ignored(mesh: InferenceMesh, second: FakeProvider) -> None:
    said = a_version(
        second, version=7, state=model_pb2.MODEL_VERSION_STATE_READY, check_failures=["none"], create_time=LONG_AGO
    )
    request = model_service_pb2.CreateModelDeploymentRequest(name="acme/writer", version=said, api_key=KEY)
    (made,) = (await mesh.call("CreateModelDeployment", request)).deployment.versions
    assert (made.version, made.state, list(made.check_failures)) == (1, model_pb2.MODEL_VERSION_STATE_CHECKING, [])
    assert made.create_time.seconds > LONG_AGO.seconds
    assert await mesh.refused("Generate", a_request(model="acme/writer")) == "precondition/MODEL_NOT_READY"


async def test_what_a_rollout_says_of_its_course_is_ignored(mesh: InferenceMesh) -> None:
    await a_route(mesh, "writer", "openai/gpt-4o-mini")
    said = a_rollout(
        ("openai/gpt-4o-mini", 0),
        ("stub", 0),
        rollout_id="rollout_1",
        state=model_pb2.ROLLOUT_STATE_PROMOTED,
        share_permille=1000,
        evidence=[model_pb2.RolloutEvidence(metric="errors", stable_events=9)],
        reason="it is the best",
        decided_by="me",
        start_time=LONG_AGO,
        decide_time=LONG_AGO,
    )
    made = (await mesh.call("StartModelRollout", said)).rollout
    assert made.rollout_id != "rollout_1"
    assert (made.state, made.share_permille) == (model_pb2.ROLLOUT_STATE_RUNNING, 500)
    assert (made.reason, made.decided_by, made.HasField("decide_time")) == ("", "", False)
    assert made.start_time.seconds > LONG_AGO.seconds
    about = model_service_pb2.GetModelRolloutRequest(rollout_id=made.rollout_id)
    assert not any(one.stable_events for one in (await mesh.call("GetModelRollout", about)).rollout.evidence)


async def test_only_administrators_change_models(mesh: InferenceMesh, surroundings: Surroundings) -> None:
    user = mesh.speaking_as(surroundings.keys.principal(Role.TENANT_USER, tenant=mesh.principal.tenant))
    request = model_service_pb2.SetModelRouteRequest(route=model_pb2.ModelRoute(name="writer"))
    assert (await user.refused("SetModelRoute", request)).startswith("denied/")
    assert not (await user.call("ListModelRoutes", model_service_pb2.ListModelRoutesRequest())).routes


async def test_a_route_is_changed_only_by_who_has_read_it(mesh: InferenceMesh) -> None:
    first = await a_route(mesh, "writer", "openai/gpt-4o-mini")
    second = await a_route(mesh, "writer", "openai/gpt-4o-mini", "stub", etag=first.etag)
    request = model_service_pb2.SetModelRouteRequest(route=first)
    assert await mesh.refused("SetModelRoute", request) == "conflict/ROUTE_CHANGED"
    got = await mesh.call("GetModelRoute", model_service_pb2.GetModelRouteRequest(name="writer"))
    assert got.route == second
    # What a route does not say is as the installation has it.
    assert (second.hop.tries, second.hop.first_byte.seconds, second.hop.between_bytes.seconds) == (1, 60, 60)
    missing = model_pb2.ModelRoute(name="x", members=[model_pb2.RouteMember(deployment="acme/none")])
    request = model_service_pb2.SetModelRouteRequest(route=missing)
    assert await mesh.refused("SetModelRoute", request) == "not_found/MODEL_NOT_FOUND"
    await mesh.call("DeleteModelRoute", model_service_pb2.DeleteModelRouteRequest(name="writer"))
    assert await mesh.refused("GetModelRoute", model_service_pb2.GetModelRouteRequest(name="writer")) == (
        "not_found/MODEL_NOT_FOUND"
    )


async def test_every_replica_hears_of_a_change_within_a_second(
    mesh: InferenceMesh, start: StartInference, second: FakeProvider
) -> None:
    async with start(private_endpoints=True) as replica:
        other = replica.speaking_as(mesh.principal)
        await a_deployment(mesh, "acme/writer", second)
        await a_route(mesh, "writer", "stub")
        began = asyncio.get_running_loop().time()

        await eventually(lambda: _known(other))
        assert asyncio.get_running_loop().time() - began < 1.0
        assert (await other.generate(model="writer")).stub
        assert (await other.generate(model="acme/writer")).provider == "openai"


async def test_a_change_that_is_committed_while_others_are_read_is_read_the_next_time(
    mesh: InferenceMesh, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    this, read = asyncio.current_task(), registry_feed._version  # pyright: ignore[reportPrivateUsage]

    async def meanwhile(scope: Scope) -> int:
        if asyncio.current_task() is this:
            monkeypatch.undo()
            await a_route(mesh, "writer", "stub")
        return await read(scope)

    async with a_feed(mesh) as feed:
        known = await feed.version()
        await a_route(other, "writer", "stub")
        monkeypatch.setattr(registry_feed, "_version", meanwhile)
        first = await feed.since(known)
        later = await feed.since(first.version)
    assert mesh.principal.tenant in {*first.holdings, *later.holdings}
    assert not first.whole


async def test_who_has_missed_changes_that_are_forgotten_reads_all(mesh: InferenceMesh) -> None:
    await a_route(mesh, "writer", "stub")
    async with a_feed(mesh) as feed:
        known = await feed.version()
        await a_route(mesh, "other", "stub")
        await a_route(mesh, "last", "stub")
        async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            await scope.execute(text("DELETE FROM registry_change WHERE version <= :known"), {"known": known + 1})
            await scope.commit()
        assert (await feed.since(known)).whole
        assert not (await feed.since(known + 1)).whole
        # As after a restore of the database.
        assert (await feed.since(known + 1_000)).whole
        async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            await scope.execute(text("DELETE FROM registry_change"))
            await scope.commit()
        found = await feed.since(known)
        assert found.whole
        assert set(found.holdings[mesh.principal.tenant].routes) == {"writer", "other", "last"}
        assert not (await feed.since(found.version)).whole


@asynccontextmanager
async def a_feed(mesh: InferenceMesh, *, ring: type[KeyRing] = KeyRing) -> AsyncIterator[SqlRegistryFeed]:
    """Follows the registry of a mesh beside its replicas; it cannot open keys."""
    async with sql_engine(mesh.urls.maintenance, pool_size=2) as engine:
        keys = ring(
            MemoryDataKeys(SystemClock().now), KekFile({b"k" * 8: b"s" * 32}), clock=SystemClock(), ids=SystemIds()
        )
        yield SqlRegistryFeed(engine, keys=keys)


async def test_a_key_service_that_is_away_keeps_no_model_from_being_known(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    async with a_feed(mesh, ring=AwayRing) as feed:
        state = await feed.since(0, also=[mesh.principal.tenant])
    assert "acme/writer" in state.holdings[mesh.principal.tenant].deployments
    assert state.keys[mesh.principal.tenant] == {(made.deployment_id, 1): None}


class AwayRing(KeyRing):
    """Cannot reach its key service."""

    async def open(self, tenant: TenantId, envelope: bytes, *, aad: bytes) -> bytes:
        raise KeyServiceAway("vault")


async def test_weights_divide_runs_and_a_run_stays_with_its_model(mesh: InferenceMesh) -> None:
    route = model_pb2.ModelRoute(
        name="writer",
        mode=model_pb2.ROUTE_MODE_WEIGHTED,
        members=[
            model_pb2.RouteMember(deployment="stub", weight_permille=300),
            model_pb2.RouteMember(deployment="openai/gpt-4o-mini", weight_permille=700),
        ],
    )
    await mesh.call("SetModelRoute", model_service_pb2.SetModelRouteRequest(route=route))
    chosen = Counter[bool]()
    for number in range(40):
        run = f"essay_{number}"
        sides = {
            (await mesh.generate(model="writer", context={"call_id": {"run_id": run, "path": path}})).stub
            for path in ("a", "b")
        }
        assert len(sides) == 1
        chosen[sides.pop()] += 1
    assert 3 <= chosen[True] <= 25


async def test_a_route_may_have_its_answers_kept(mesh: InferenceMesh) -> None:
    kept = await a_route(
        mesh, "writer", "openai/gpt-4o-mini", cache=model_pb2.CachePolicy(exact_ttl=Duration(seconds=60))
    )
    assert kept.cache.exact_ttl.seconds == 60
    answers = [
        await mesh.generate(model=model) for model in ("writer", "writer", "openai/gpt-4o-mini", "openai/gpt-4o-mini")
    ]
    assert [one.cached for one in answers] == [False, True, False, False]


async def test_a_model_at_a_private_address_is_refused_unless_the_installation_allows_it(
    start: StartInference, surroundings: Surroundings, second: FakeProvider
) -> None:
    async with start() as running:
        closed = running.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
        request = model_service_pb2.CreateModelDeploymentRequest(name="acme/x", version=a_version(second), api_key=KEY)
        made = (await closed.call("CreateModelDeployment", request)).deployment
        checked = await checked_version(closed, made.deployment_id, 1)
    assert checked.state == model_pb2.MODEL_VERSION_STATE_REFUSED
    assert checked.check_failures[0].startswith("EGRESS_REFUSED:")
    assert second.meter.calls == []


async def _known(mesh: InferenceMesh, model: str = "writer") -> bool:
    try:
        await mesh.call("CountTokens", pb.CountTokensRequest(model=model, messages=a_request().messages))
    except MeshError:
        return False
    return True


async def test_a_canary_that_fails_in_one_of_five_calls_harms_no_caller_and_is_taken_back_by_itself(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    await a_deployment(mesh, "acme/canary", second)
    await a_route(mesh, "writer", "openai/gpt-4o-mini")
    started = await mesh.call(
        "StartModelRollout", a_rollout(("openai/gpt-4o-mini", 0), ("acme/canary", 1), steps_permille=[300])
    )
    about = model_service_pb2.GetModelRolloutRequest(rollout_id=started.rollout.rollout_id)
    for _ in range(200):
        second.next(Behaviour(status=500), *[Behaviour()] * 4)

    async def taken_back() -> bool:
        answers = await asyncio.gather(*(mesh.generate(model="writer") for _ in range(10)))
        # Each caller got an answer, from the stable version at the latest.
        assert {one.parts[0].text.text for one in answers} == {Behaviour().text}
        rollout = (await mesh.call("GetModelRollout", about)).rollout
        return rollout.state == model_pb2.ROLLOUT_STATE_ROLLED_BACK

    await eventually(taken_back, seconds=30)
    rollout = (await mesh.call("GetModelRollout", about)).rollout
    assert (rollout.decided_by, rollout.share_permille) == ("judge", 0)
    assert rollout.reason.startswith("errors:")
    assert {one.metric for one in rollout.evidence if one.e_value >= 80} == {"errors"}
    # The judge sits on this replica, so that it has heard of it; a call asks the stable version only from now on.
    asked_before = len(second.meter.calls)
    await asyncio.gather(*(mesh.generate(model="writer") for _ in range(20)))
    assert len(second.meter.calls) == asked_before


async def test_a_canary_whose_answers_are_said_to_be_poor_is_taken_back_by_itself(
    mesh: InferenceMesh, second: FakeProvider, surroundings: Surroundings
) -> None:
    await a_deployment(mesh, "acme/canary", second)
    await a_route(mesh, "writer", "openai/gpt-4o-mini")
    tried = ("openai/gpt-4o-mini", 0), ("acme/canary", 1)
    assert await mesh.refused("StartModelRollout", a_rollout(*tried, quality_margin=1.0)) == (
        "invalid/INVALID_FIELD/rollout.quality_margin"
    )
    started = await mesh.call("StartModelRollout", a_rollout(*tried, quality_margin=0.1))
    assert started.rollout.quality_margin == 0.1
    about = model_service_pb2.GetModelRolloutRequest(rollout_id=started.rollout.rollout_id)

    async def scored() -> model_service_pb2.ReportModelQualityRequest:
        answer = await mesh.generate(model="writer")
        score = 0.25 if answer.deployment == "acme/canary" else 0.75
        said = model_service_pb2.ReportModelQualityRequest(hold_id=answer.hold_id, score=score)
        await mesh.call("ReportModelQuality", said)
        return said

    said = await scored()
    assert await mesh.refused("ReportModelQuality", said) == "exists/ALREADY_EXISTS"
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    assert await other.refused("ReportModelQuality", said) == "not_found/NOT_FOUND"

    async def taken_back() -> bool:
        done = await asyncio.gather(*(scored() for _ in range(10)), return_exceptions=True)
        # What is answered once it was taken back is on trial no more.
        assert {one.reason for one in done if isinstance(one, MeshError)} <= {"NOT_FOUND"}
        return (await mesh.call("GetModelRollout", about)).rollout.state == model_pb2.ROLLOUT_STATE_ROLLED_BACK

    await eventually(taken_back, seconds=30)
    rollout = (await mesh.call("GetModelRollout", about)).rollout
    assert (rollout.decided_by, rollout.reason.partition(":")[0]) == ("judge", "quality")
    (found,) = [one for one in rollout.evidence if one.metric == "quality"]
    assert found.canary_events > 0
    assert found.stable_events >= 20
    # What is said of answers of a rollout that has ended counts nowhere any more.
    assert (await mesh.generate(model="writer")).deployment == "openai/gpt-4o-mini"


async def test_an_ended_rollout_shows_also_what_was_in_no_sum_by_its_end(mesh: InferenceMesh) -> None:
    await a_route(mesh, "writer", "openai/gpt-4o-mini")
    started = await mesh.call("StartModelRollout", a_rollout(("openai/gpt-4o-mini", 0), ("stub", 0)))
    about = {"rollout_id": started.rollout.rollout_id}
    await mesh.call("RollBackModelRollout", model_service_pb2.RollBackModelRolloutRequest(**about))
    ids = {"tenant": mesh.principal.tenant, "rollout": to_uuid(started.rollout.rollout_id, "rollout")}
    # As a release without sums has left them.
    before = {
        "rollout_event": ("metric, event_time", "'error', now()"),
        "rollout_score": ("step, score_percent, first, score_time", "0, 50, true, now()"),
    }
    async with sql_engine(mesh.urls.app, pool_size=1) as app, tenant_scope(app, mesh.principal.tenant) as scope:
        for table, (columns, values) in before.items():
            statement = (
                f"INSERT INTO {table} (tenant_id, rollout_id, unit, canary, share_permille, {columns})"
                f" SELECT :tenant, :rollout, int4send(n), n > 2, 500, {values} FROM generate_series(1, 5) AS n"
            )
            await scope.execute(text(statement), ids)
        await scope.commit()
    for _ in range(2):
        rollout = (await mesh.call("GetModelRollout", model_service_pb2.GetModelRolloutRequest(**about))).rollout
        seen = {one.metric: (one.stable_events, one.canary_events) for one in rollout.evidence}
        assert (seen["errors"], seen["quality"]) == ((2, 3), (2, 3))


async def test_a_canary_is_promoted_and_the_route_asks_it(mesh: InferenceMesh, second: FakeProvider) -> None:
    made = await a_deployment(mesh, "acme/canary", second)
    await a_route(mesh, "writer", "openai/gpt-4o-mini", "stub")
    started = await mesh.call("StartModelRollout", a_rollout(("openai/gpt-4o-mini", 0), ("acme/canary", 1)))
    about = {"rollout_id": started.rollout.rollout_id}
    again = a_rollout(("stub", 0), ("acme/canary", 1))
    assert await mesh.refused("StartModelRollout", again) == "conflict/ROLLOUT_IN_PROGRESS"
    retire = model_service_pb2.RetireModelDeploymentRequest(deployment_id=made.deployment_id)
    assert await mesh.refused("RetireModelDeployment", retire) == "conflict/ROLLOUT_IN_PROGRESS"
    done = (await mesh.call("PromoteModelRollout", model_service_pb2.PromoteModelRolloutRequest(**about))).rollout
    assert (done.state, done.share_permille) == (model_pb2.ROLLOUT_STATE_PROMOTED, 1000)
    route = (await mesh.call("GetModelRoute", model_service_pb2.GetModelRouteRequest(name="writer"))).route
    assert [one.deployment for one in route.members] == ["acme/canary", "stub"]
    back = model_service_pb2.RollBackModelRolloutRequest(**about)
    assert await mesh.refused("RollBackModelRollout", back) == "precondition/ROLLOUT_DECIDED"


async def test_a_replica_tells_how_it_finds_models_and_only_to_whom_they_belong(
    mesh: InferenceMesh, surroundings: Surroundings, second: FakeProvider
) -> None:
    await a_deployment(mesh, "acme/writer", second)
    for _ in range(5):
        second.next(Behaviour(status=500))
        assert await mesh.refused("Generate", a_request(model="acme/writer")) == "unavailable/PROVIDER_UNAVAILABLE"
    listed = (await mesh.call("ListModelHealth", model_service_pb2.ListModelHealthRequest())).health
    (found,) = [one for one in listed if one.deployment == "acme/writer"]
    assert (found.version, found.breaker) == (1, model_pb2.BREAKER_STATE_OPEN)
    assert found.last_failure == "PROVIDER_UNAVAILABLE"
    assert found.last_failure_time.seconds > LONG_AGO.seconds
    assert 0 < found.p50_us <= found.p95_us  # of the check
    assert found.replica.startswith("replica_")
    other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
    theirs = (await other.call("ListModelHealth", model_service_pb2.ListModelHealthRequest())).health
    assert {one.deployment for one in listed} - {one.deployment for one in theirs} == {"acme/writer"}


async def test_a_model_that_is_left_alone_is_looked_at_without_a_prompt_and_costs_nothing(
    mesh: InferenceMesh, start: StartInference, second: FakeProvider
) -> None:
    await a_deployment(mesh, "acme/writer", second)
    async with start(private_endpoints=True, probe_seconds=0.1) as started:
        replica = started.speaking_as(mesh.principal)
        await eventually(lambda: _known(replica, "acme/writer"))
        spent = len(await mesh.charges())
        for _ in range(5):
            second.next(Behaviour(status=500))
            assert await replica.refused("Generate", a_request(model="acme/writer")) == (
                "unavailable/PROVIDER_UNAVAILABLE"
            )

        async def health() -> Any:
            listed = (await replica.call("ListModelHealth", model_service_pb2.ListModelHealthRequest())).health
            return next(one for one in listed if one.deployment == "acme/writer")

        async def looked_at() -> bool:
            return (await health()).HasField("probe_time")

        await eventually(looked_at)
        found = await health()
        assert (found.breaker, found.probe_failure) == (model_pb2.BREAKER_STATE_HALF_OPEN, "")
        assert found.probe_us > 0
        assert {look["authorization"] for look in second.looks} == {f"Bearer {KEY}"}
        asked = len(second.meter.calls)
        assert (await replica.generate(model="acme/writer")).provider == "openai"
        assert (await health()).breaker == model_pb2.BREAKER_STATE_CLOSED
    assert len(second.meter.calls) == asked + 1
    assert len(await mesh.charges()) == spent + 1


async def test_a_new_version_takes_over_under_load_without_a_failed_call(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    made = await a_deployment(mesh, "acme/writer", second)
    await a_route(mesh, "writer", "acme/writer")
    stop = asyncio.Event()
    answered = Counter[str]()

    async def caller() -> None:
        while not stop.is_set():
            answer = await mesh.generate(model="writer")
            answered[answer.model] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(caller())
        request = model_service_pb2.AddModelVersionRequest(
            deployment_id=made.deployment_id, version=a_version(second, model="gpt-4o")
        )
        await mesh.call("AddModelVersion", request)
        await checked_version(mesh, made.deployment_id, 2)
        async with asyncio.timeout(10):
            while not answered["gpt-4o"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stop.set()
    assert answered["gpt-4o-mini"] > 0


async def test_a_rollback_works_while_the_database_is_away_and_is_durable_afterwards(
    mesh: InferenceMesh, second: FakeProvider, postgres: str
) -> None:
    await a_deployment(mesh, "acme/canary", second)
    await a_route(mesh, "writer", "openai/gpt-4o-mini")
    started = await mesh.call(
        "StartModelRollout",
        a_rollout(
            ("openai/gpt-4o-mini", 0), ("acme/canary", 1), kind=model_pb2.ROLLOUT_KIND_BLUE_GREEN, steps_permille=[]
        ),
    )
    about = {"rollout_id": started.rollout.rollout_id}
    back = model_service_pb2.RollBackModelRolloutRequest(request_id=str(uuid4()), **about)
    async with away(mesh, postgres):
        taken_back = (await mesh.call("RollBackModelRollout", back)).rollout
        assert (taken_back.state, taken_back.share_permille) == (model_pb2.ROLLOUT_STATE_ROLLED_BACK, 0)
        assert taken_back.reason == "by command, while the database was away"
        assert await _known(mesh)

    async def durable() -> bool:
        try:
            rollout = await mesh.call("GetModelRollout", model_service_pb2.GetModelRolloutRequest(**about))
        except MeshError:
            return False
        found = rollout.rollout
        return (found.state, found.decided_by, found.reason) == (
            taken_back.state,
            taken_back.decided_by,
            taken_back.reason,
        )

    await eventually(durable, seconds=20)
    asked_before = len(second.meter.calls)
    await asyncio.gather(*(mesh.generate(model="writer") for _ in range(20)))
    assert len(second.meter.calls) == asked_before


@asynccontextmanager
async def away(mesh: InferenceMesh, admin: str) -> AsyncIterator[None]:
    """Keeps the service from its database for the block."""
    database = mesh.urls.app.rpartition("/")[2].partition("?")[0]
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
        yield
    finally:
        await connection.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        await connection.close()


@pytest.mark.parametrize(
    ("table", "named"), [("model_version", "acme/broken"), ("model_route", "broken"), ("model_rollout", "broken")]
)
async def test_what_cannot_be_read_is_left_out_by_its_name_and_keeps_no_other_change_from_a_replica(
    mesh: InferenceMesh, second: FakeProvider, postgres: str, table: str, named: str
) -> None:
    await a_deployment(mesh, "acme/broken", second)
    await a_deployment(mesh, "acme/fine", second)
    await a_route(mesh, "broken", "stub")
    await a_route(mesh, "gone", "stub")
    await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/fine", 1), route="broken"))
    odd = """ SET spec = spec || '{"mode": "of_tomorrow", "kind": "of_tomorrow", "form": "of_tomorrow"}'"""
    of_it = {
        "model_version": "deployment_id IN (SELECT deployment_id FROM model_deployment WHERE name = 'acme/broken')",
        "model_route": "name = 'broken'",
        "model_rollout": "route = 'broken'",
    }

    async def left_out() -> bool:
        listed = (await mesh.call("ListModelHealth", model_service_pb2.ListModelHealthRequest())).health
        return named in [one.deployment for one in listed if one.last_failure == "MODEL_UNREADABLE"]

    async def heard_of_the_next_change() -> bool:
        try:
            return not await mesh.generate(model="gone")
        except MeshError as error:
            return error.reason == "MODEL_NOT_FOUND"

    owner = await asyncpg.connect(mesh.urls.migrator.replace("+asyncpg", ""))
    try:
        tenant = mesh.principal.tenant
        await owner.execute(f"UPDATE {table}{odd} WHERE tenant_id = $1 AND {of_it[table]}", tenant)
        await eventually(left_out)
        await owner.execute("DELETE FROM model_route WHERE tenant_id = $1 AND name = 'gone'", tenant)
    finally:
        await owner.close()
    await eventually(heard_of_the_next_change)
    assert await mesh.refused("Generate", a_request(model=named)) == "unavailable/MODEL_UNREADABLE"
    assert (await mesh.generate(model="acme/fine@1")).provider == "openai"


@asynccontextmanager
async def of_tomorrow(mesh: InferenceMesh) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Gives what writes rows of a tenant, as the tables' owner, in a way that this release cannot read."""
    owner = await asyncpg.connect(mesh.urls.migrator.replace("+asyncpg", ""))

    async def write(table: str, where: str) -> None:
        odd = """ SET spec = spec || '{"mode": "of_tomorrow", "kind": "of_tomorrow", "form": "of_tomorrow"}'"""
        await owner.execute(f"UPDATE {table}{odd} WHERE tenant_id = $1 AND {where}", mesh.principal.tenant)

    try:
        yield write
    finally:
        await owner.close()


async def test_what_cannot_be_read_is_retired_or_set_over_and_keeps_no_list_or_change_back(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    broken = await a_deployment(mesh, "acme/broken", second)
    await a_deployment(mesh, "acme/fine", second)
    for name in ("a", "b", "c"):
        await a_route(mesh, name, "stub")
    async with of_tomorrow(mesh) as write:
        await write(
            "model_version",
            "deployment_id = (SELECT deployment_id FROM model_deployment WHERE name = "
            "'acme/broken' AND tenant_id = $1)",
        )
        await write("model_route", "name IN ('a', 'b')")
    models = (await mesh.call("ListModels", model_service_pb2.ListModelsRequest())).models
    assert {one.name: len(one.versions) for one in models if one.deployment_id} == {"acme/broken": 0, "acme/fine": 1}
    # A page is as long as it is asked to be, so that a short one is the last.
    listed = await mesh.call("ListModelRoutes", model_service_pb2.ListModelRoutesRequest(page_size=1))
    assert ([one.name for one in listed.routes], listed.next_page_token) == (["c"], "")
    await a_route(mesh, "d", "acme/fine")
    assert (await a_route(mesh, "a", "acme/fine")).etag == "2"
    await mesh.call("DeleteModelRoute", model_service_pb2.DeleteModelRouteRequest(name="b"))
    listed = await mesh.call("ListModelRoutes", model_service_pb2.ListModelRoutesRequest())
    assert [one.name for one in listed.routes] == ["a", "c", "d"]
    about = {"deployment_id": broken.deployment_id}
    retired = await mesh.call("RetireModelDeployment", model_service_pb2.RetireModelDeploymentRequest(**about))
    assert retired.deployment.HasField("retire_time")
    await a_deployment(mesh, "acme/broken", second)
    assert (await mesh.generate(model="acme/broken")).provider == "openai"


async def test_a_rollout_that_cannot_be_read_is_taken_back_by_command_and_its_route_stays_as_it_was(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    await a_deployment(mesh, "acme/canary", second)
    before = await a_route(mesh, "writer", "stub")
    started = await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/canary", 1)))
    async with of_tomorrow(mesh) as write:
        await write("model_rollout", "route = 'writer'")

    back = model_service_pb2.RollBackModelRolloutRequest(rollout_id=started.rollout.rollout_id)
    ended = (await mesh.call("RollBackModelRollout", back)).rollout
    assert (ended.state, ended.share_permille, ended.route) == (model_pb2.ROLLOUT_STATE_ROLLED_BACK, 0, "writer")
    assert ended.decided_by == mesh.principal.subject
    shown = await mesh.call("GetModelRoute", model_service_pb2.GetModelRouteRequest(name="writer"))
    assert shown.route == before
    assert (await mesh.generate(model="writer")).deployment == "stub"
    assert (await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/canary", 1)))).rollout.rollout_id


async def test_a_rollout_that_cannot_be_read_stands_in_the_way_of_its_own_and_ends_with_its_route(
    mesh: InferenceMesh, second: FakeProvider
) -> None:
    canary, other = await a_deployment(mesh, "acme/canary", second), await a_deployment(mesh, "acme/other", second)
    for name in ("writer", "fine"):
        await a_route(mesh, name, "stub")
    started = await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/canary", 1)))
    async with of_tomorrow(mesh) as write:
        await write("model_rollout", "route = 'writer'")
    fine = await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/other", 1), route="fine"))
    listed = (await mesh.call("ListModelRollouts", model_service_pb2.ListModelRolloutsRequest())).rollouts
    assert [one.rollout_id for one in listed] == [fine.rollout.rollout_id]
    await mesh.call(
        "RollBackModelRollout", model_service_pb2.RollBackModelRolloutRequest(rollout_id=fine.rollout.rollout_id)
    )
    await mesh.call(
        "RetireModelDeployment", model_service_pb2.RetireModelDeploymentRequest(deployment_id=other.deployment_id)
    )
    retire = model_service_pb2.RetireModelDeploymentRequest(deployment_id=canary.deployment_id)
    assert await mesh.refused("RetireModelDeployment", retire) == "conflict/ROLLOUT_IN_PROGRESS"
    route = model_pb2.ModelRoute(name="writer", members=[model_pb2.RouteMember(deployment="stub")])
    over = model_service_pb2.SetModelRouteRequest(route=route)
    assert await mesh.refused("SetModelRoute", over) == "conflict/ROLLOUT_IN_PROGRESS"
    await mesh.call("DeleteModelRoute", model_service_pb2.DeleteModelRouteRequest(name="writer"))
    await mesh.call("SetModelRoute", over)
    again = await mesh.call("StartModelRollout", a_rollout(("stub", 0), ("acme/canary", 1)))
    assert again.rollout.rollout_id != started.rollout.rollout_id
