"""An identity that is bound to a project: what it finds, what it may not, by gRPC and by REST."""

from secrets import token_hex

import aiohttp
import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk import AsyncClient
from comitia_sdk.errors import NotFound, PermissionDenied
from tests.e2e.conftest import Rest, until
from tests.support.mesh import RunningMesh

TERMINAL = (session_pb2.SESSION_STATE_SUCCEEDED, session_pb2.SESSION_STATE_FAILED)


@pytest.mark.parametrize("role", ["tenant_user", "admin"])
async def test_a_key_bound_to_a_project_works_in_that_project_and_finds_no_other(mesh: RunningMesh, role: str) -> None:
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as operator:
        made = await operator.tenants.create(f"bound-{token_hex(4)}")
    async with AsyncClient(mesh.url, api_key=made.admin_api_key) as admin:
        await admin.agents.create("Athena")
        theirs = await admin.sessions.start("Rivers", agents=["Athena"], max_rounds=1, metadata={"project": "billing"})
        key = (await admin.identity.create_key("bound", roles=[role], project="claims")).secret
    async with AsyncClient(mesh.url, api_key=key) as bound:
        mine = await bound.sessions.start("Rivers", agents=["Athena"], max_rounds=1)

        async def ended() -> session_pb2.Session | None:
            found = await bound.sessions.get(mine.session_id)
            return found if found.state in TERMINAL else None

        done = await until(ended)
        assert (done.metadata["project"], done.state) == ("claims", session_pb2.SESSION_STATE_SUCCEEDED)
        assert [one.session_id async for one in bound.sessions.list()] == [mine.session_id]
        for call in (bound.sessions.get, bound.sessions.cancel, bound.sessions.advance):
            with pytest.raises(NotFound) as gone:
                await call(theirs.session_id)
            assert gone.value.reason == "SESSION_NOT_FOUND"
        with pytest.raises(PermissionDenied) as refused:
            await bound.agents.create("Zeus")
        assert refused.value.reason == "BOUND_TO_PROJECT"
    async with aiohttp.ClientSession() as session:
        rest = Rest(session, mesh.url, key)
        listed = await rest.ask("GET", "/v1/sessions")
        assert mine.session_id in str(listed.body)
        assert theirs.session_id not in str(listed.body)
        for verb, path in (("GET", ""), ("GET", "/turns"), ("POST", ":cancel"), ("POST", ":advance")):
            body = {} if verb == "POST" else None
            answer = await rest.ask(verb, f"/v1/sessions/{theirs.session_id}{path}", body)
            assert (answer.status, answer.reason) == (404, "SESSION_NOT_FOUND"), path
        for path in ("/v1/memories", "/v1/violations", "/v1/budget-tree", "/v1/cost/alerts"):
            answer = await rest.ask("GET", path)
            assert (answer.status, answer.reason) == (403, "BOUND_TO_PROJECT"), path


async def test_a_key_bound_to_a_project_sees_the_money_of_that_project_alone(mesh: RunningMesh) -> None:
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as operator:
        made = await operator.tenants.create(f"bound-{token_hex(4)}")
    async with AsyncClient(mesh.url, api_key=made.admin_api_key) as admin:
        await admin.agents.create("Athena")
        theirs = await admin.sessions.start("Rivers", agents=["Athena"], max_rounds=1, metadata={"project": "billing"})
        mine = await admin.sessions.start("Rivers", agents=["Athena"], max_rounds=1, metadata={"project": "claims"})

        async def charged() -> bool | None:
            found = await admin.costs.summary(by="run")
            return {line.key for line in found.lines} == {mine.session_id, theirs.session_id} or None

        await until(charged)
        for project in ("claims", "billing"):
            await admin.costs.set_budget(10**9, project=project)
        other = await admin.costs.budget("project:billing")
        key = (await admin.identity.create_key("bound", roles=["tenant_user"], project="claims")).secret
        free = (await admin.identity.create_key("free", roles=["tenant_user"])).secret
    async with AsyncClient(mesh.url, api_key=free) as unbound:
        seen = {line.key for line in (await unbound.costs.summary(by="project")).lines}
        assert seen == {"billing", "claims"}, "whoever is bound to none sees the whole tenant's"
    async with AsyncClient(mesh.url, api_key=key) as bound:
        assert [line.key for line in (await bound.costs.summary(by="run")).lines] == [mine.session_id]
        assert {event.run_id async for event in bound.costs.events()} == {mine.session_id}
        assert [event async for event in bound.costs.events(run_id=theirs.session_id)] == []
        assert (await bound.costs.budget_status("project:claims")).budget.name == "claims"
        for foreign in ("project:billing", other.budget_id, "tenant", "agent:Athena", f"run:{mine.session_id}"):
            with pytest.raises(NotFound):
                await bound.costs.budget_status(foreign)
            with pytest.raises(NotFound):
                await anext(bound.costs.budget_alerts(foreign))
        assert [alert async for alert in bound.costs.budget_alerts()] == []
        with pytest.raises(PermissionDenied) as refused:
            await bound.costs.summary(project="billing")
        assert refused.value.reason == "BOUND_TO_PROJECT"
    async with aiohttp.ClientSession() as session:
        rest = Rest(session, mesh.url, key)
        shown = await rest.ask("GET", "/v1/cost/series?by=COST_DIMENSION_PROJECT")
        assert [line["key"] for line in shown.body["lines"]] == ["claims"]
        answer = await rest.ask("GET", "/v1/budgets/project:billing")
        assert (answer.status, answer.reason) == (404, "BUDGET_NODE_NOT_FOUND")


async def test_runs_of_workflows_are_bound_to_projects_as_sessions_are(mesh: RunningMesh) -> None:
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as operator:
        made = await operator.tenants.create(f"bound-{token_hex(4)}")
    async with AsyncClient(mesh.url, api_key=made.admin_api_key) as admin:
        await admin.workflows.create("name: ask\nversion: 1.0.0\nnodes: [{id: go, wait: {signal: go}}]\n")
        await admin.workflows.create("name: outer\nversion: 1.0.0\nnodes: [{id: inner, run: ask}]\n")
        theirs = await admin.runs.start("ask", metadata={"project": "billing"})
        key = (await admin.identity.create_key("bound", roles=["tenant_user"], project="claims")).secret
    async with AsyncClient(mesh.url, api_key=key) as bound:
        mine = await bound.runs.start("outer", metadata={"project": "billing"})
        assert mine.metadata["project"] == "claims", "of a bound token it is always its own"

        async def started() -> str:
            steps = [step async for step in bound.runs.steps(mine.run_id)]
            return steps[0].started_run_id if steps else ""

        inner_id = await until(started)

        async def inner() -> bool:
            return inner_id in {run.run_id async for run in bound.runs.list()}

        await until(inner)
        assert (await bound.runs.get(inner_id)).metadata["project"] == "claims"
        assert {run.run_id async for run in bound.runs.list()} == {mine.run_id, inner_id}
        for call in (bound.runs.get, bound.runs.pause, bound.runs.resume, bound.runs.cancel):
            with pytest.raises(NotFound) as gone:
                await call(theirs.run_id)
            assert gone.value.reason == "RUN_NOT_FOUND"
        for events in (bound.runs.watch(theirs.run_id), bound.runs.steps(theirs.run_id)):
            with pytest.raises(NotFound) as gone:
                async for _ in events:
                    pass
            assert gone.value.reason == "RUN_NOT_FOUND"
        with pytest.raises(NotFound):
            await bound.runs.signal(theirs.run_id, "go")
        await bound.runs.cancel(mine.run_id)
