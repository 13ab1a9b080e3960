"""What stands before a run that a step of another run starts."""

from typing import Any, cast

import pytest

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content import MOST_PARENT_STEPS
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import SubRunsAtLimit
from services.orchestrator.domain.sub_run_id import ids_of_tree, sub_run_id
from services.orchestrator.engine.outcomes import stands
from services.orchestrator.record.pins import Own, owned
from services.orchestrator.usecases.pin_workflow import PinnedWorkflow
from services.orchestrator.usecases.prepare_sub_run import MAX_SUB_RUNS, PrepareSubRun
from tests.support.workflows import a_node, a_run, a_workflow

IDS = SystemIds()


class Full:
    """Implements `RunTrees`: every tree has as many runs as may be."""

    async def below(self, tenant: TenantId, sub_run_id: str, *, most: int) -> int:
        """See `RunTrees.below`."""
        return most


async def test_a_tree_of_runs_has_an_end_and_the_step_that_would_grow_it_fails_for_good() -> None:
    nobody = cast(Any, None)
    prepare = PrepareSubRun(trees=Full(), pin_workflow=nobody, neighbours=nobody, clock=FakeClock())
    started = a_run(a_workflow(a_node("inner")))
    task = journal_pb2.SubRunTask(run_id=sub_run_id(IDS.new("run"), "nodes/inner#1.1"), workflow="inner@1.0.0")
    call = journal_pb2.CallIntended(kind=journal_pb2.CALL_KIND_RUN, request=task.SerializeToString())
    who = Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t"))
    with pytest.raises(SubRunsAtLimit) as refused:
        await prepare.prepare(who, started, journal_pb2.JournalEntry(path="nodes/inner", call_intended=call))
    assert stands(refused.value)
    assert str(MAX_SUB_RUNS) in refused.value.message
    # Trees of one millisecond have their ids in common, so one of them may be far from its bound.
    assert "began in the same millisecond" in refused.value.message


class Room:
    """Implements `RunTrees`: there is room in every tree."""

    async def below(self, tenant: TenantId, sub_run_id: str, *, most: int) -> int:
        """See `RunTrees.below`."""
        return 0


class Granting:
    """The part of `Neighbours` that a sub-run needs: it opens no budget."""

    async def issue_grant(self, caller: Caller, run_id: str) -> str:
        """See `Neighbours.issue_grant`."""
        return f"grant of {run_id}"


async def below(started: journal_pb2.RunStarted) -> journal_pb2.RunStarted:
    """Prepares the run that a step of another run starts."""
    inner = PinnedWorkflow(workflow=started.workflow, agents=(), prompts={})

    async def pinned(caller: Caller, workflow: str) -> PinnedWorkflow:
        return inner

    prepare = PrepareSubRun(
        trees=Room(), pin_workflow=cast(Any, pinned), neighbours=cast(Any, Granting()), clock=FakeClock()
    )
    who = Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t"))
    task = journal_pb2.SubRunTask(run_id=sub_run_id(started.run.run_id, "nodes/inner#1.1"), workflow="inner@1.0.0")
    call = journal_pb2.CallIntended(kind=journal_pb2.CALL_KIND_RUN, request=task.SerializeToString())
    return await prepare.prepare(who, started, journal_pb2.JournalEntry(path="nodes/inner", call_intended=call))


def a_root() -> journal_pb2.RunStarted:
    started = a_run(a_workflow(a_node("inner")))
    started.run.run_id, started.run.budget_id, started.run.max_cost_nano_usd = IDS.new("run"), "budget_1", 7
    started.run.metadata["project"] = "atlas"
    return started


async def test_runs_below_a_run_spend_from_its_budget_and_belong_to_its_project_however_deep_they_lie() -> None:
    started = a_root()
    for _ in range(3):
        sub_run = await below(started)
        assert sub_run.run.parent_run_id == started.run.run_id
        assert (sub_run.run.budget_id, sub_run.run.max_cost_nano_usd) == ("budget_1", 7)
        assert sub_run.run.metadata["project"] == "atlas"
        started = sub_run


async def test_a_run_names_the_steps_of_all_runs_above_it_from_the_outermost_to_sixteen_deep() -> None:
    started, above = a_root(), list[str]()
    for _ in range(MOST_PARENT_STEPS + 2):
        assert list(started.parent_steps) == above[:MOST_PARENT_STEPS]
        above.append(f"{started.run.run_id}/nodes/inner")
        started = await below(started)


async def test_a_fork_of_a_sub_run_lies_below_no_step() -> None:
    sub_run = await below(a_root())
    own = Own(
        run_id=IDS.new("run"),
        grant_id="grant_2",
        budget_id="budget_2",
        max_cost=1,
        forked_from=sub_run.run.run_id,
        at_sequence=1,
        dry_effects=True,
    )
    assert sub_run.parent_steps
    assert not owned(sub_run, own).parent_steps


def test_all_runs_of_a_tree_lie_between_two_ids_and_no_other_does() -> None:
    root = IDS.new("run")
    below = [sub_run_id(root, f"nodes/a#{number}.1") for number in range(20)]
    below += [sub_run_id(below[0], f"nodes/b#{number}.1") for number in range(20)]
    first, last = ids_of_tree(below[-1])
    assert all(first <= to_uuid(run_id, "run") <= last for run_id in below)
    assert ids_of_tree(below[0]) == (first, last)
    assert not first <= to_uuid(root, "run") <= last
    assert not first <= to_uuid(sub_run_id("run_01h455vb4pex5vsknk084sn02q", "nodes/a#1.1"), "run") <= last
