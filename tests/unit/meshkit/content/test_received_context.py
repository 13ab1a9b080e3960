"""Every service that lets bytes out reads whose call it is in the same way."""

import pytest

from comitia.common.v1 import content_pb2
from services.meshkit.content.call import KEYED, SHADOW
from services.meshkit.content.proto import context_from_proto, context_to_proto
from services.meshkit.content.received_context import received_context
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, Principal, Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.testing.mesh_keys import TENANT
from services.meshkit.testing.seeded_ids import SeededIds

BUDGET = from_uuid("budget", SeededIds(1).uuid())
PARENT = f"{from_uuid('run', SeededIds(2).uuid())}/nodes/inner"


def a_caller(*, peer: str | None = None, project: str | None = None, run_id: str | None = None) -> Caller:
    principal = Principal(
        tenant=TENANT, subject="alice", roles=frozenset({Role.TENANT_USER}), project=project, run_id=run_id
    )
    return Caller(principal=principal, peer=peer)


def a_call(run_id: str = "essay_1", **parts: object) -> content_pb2.CallContext:
    values = {"path": "", "attempt_group": 0, "call_index": 0, **parts}
    return content_pb2.CallContext(call_id=content_pb2.CallId(run_id=run_id, **values))  # type: ignore[arg-type]


def test_a_call_with_an_id_can_be_repeated_by_it() -> None:
    context, repeatable = received_context(a_call(path="rounds/1/Athena"), a_caller(), SeededIds(1))
    assert (str(context.call_id), repeatable) == ("essay_1/rounds/1/Athena#0.0", True)


def test_a_direct_call_gets_an_id_that_nobody_can_repeat() -> None:
    ids = SeededIds(1)
    (one, repeatable), (two, _) = (received_context(content_pb2.CallContext(), a_caller(), ids) for _ in range(2))
    assert not repeatable
    assert one.call_id.run_id.startswith("direct_")
    assert one.call_id != two.call_id


def test_a_service_must_name_its_call() -> None:
    with pytest.raises(Invalid) as refused:
        received_context(content_pb2.CallContext(), a_caller(peer="orchestrator"), SeededIds(1))
    assert refused.value.field == "context.call_id.run_id"


def test_a_token_of_a_project_counts_for_that_project() -> None:
    message = a_call()
    message.project = "war"
    context, _ = received_context(message, a_caller(project="peace"), SeededIds(1))
    assert context.project == "peace"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (a_call("r" * 129), "call_id.run_id"),
        (a_call(path="p" * 513), "call_id.path"),
        (a_call(path="a\x00b"), "call_id.path"),
        (a_call(attempt_group=-1), "call_id.attempt_group"),
        (a_call(call_index=-1), "call_id.call_index"),
        (content_pb2.CallContext(agent_name="a" * 129), "agent_name"),
        (content_pb2.CallContext(residency_region="e" * 129), "residency_region"),
        (content_pb2.CallContext(budget_ids=[BUDGET] * 17), "budget_ids"),
        (content_pb2.CallContext(budget_ids=[BUDGET, "run_1"]), "budget_ids[1]"),
        (content_pb2.CallContext(parent_steps=[PARENT] * 17), "parent_steps"),
        (content_pb2.CallContext(parent_steps=[PARENT, "run_1/nodes"]), "parent_steps[1]"),
        (content_pb2.CallContext(parent_steps=[PARENT.partition("/")[0]]), "parent_steps[0]"),
        (content_pb2.CallContext(parent_steps=[PARENT + "\x00"]), "parent_steps[0]"),
        (content_pb2.CallContext(parent_steps=[PARENT + "p" * 512]), "parent_steps[0]"),
    ],
)
def test_what_is_wrong_is_named(message: content_pb2.CallContext, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        received_context(message, a_caller(), SeededIds(1))
    assert refused.value.field == f"context.{field}"


def test_the_longest_names_pass() -> None:
    context, _ = received_context(a_call("r" * 128, path="p" * 512), a_caller(), SeededIds(1))
    assert len(context.call_id.path) == 512


@pytest.mark.parametrize(
    ("caller", "run_id"),
    [
        (a_caller(), "run_1"),
        (a_caller(), "direct_1"),
        (a_caller(), "batch_1"),
        (a_caller(), f"{KEYED}_1"),
        (a_caller(), f"{SHADOW}_1"),
        (a_caller(run_id="run_2"), "run_1"),
        (a_caller(run_id="run_2"), "essay_1"),
        (a_caller(peer="orchestrator", run_id="run_2"), "run_1"),
    ],
)
def test_nobody_takes_call_ids_that_the_mesh_makes_nor_those_of_a_run_but_that_run(caller: Caller, run_id: str) -> None:
    with pytest.raises(Invalid) as refused:
        received_context(a_call(run_id), caller, SeededIds(1))
    assert refused.value.field == "context.call_id.run_id"


@pytest.mark.parametrize("run_id", [None, "run_2"])
def test_nobody_outside_spends_from_a_budget_of_a_run(run_id: str | None) -> None:
    message = content_pb2.CallContext(budget_ids=[BUDGET])
    with pytest.raises(Invalid) as refused:
        received_context(message, a_caller(run_id=run_id), SeededIds(1))
    assert refused.value.field == "context.budget_ids"


@pytest.mark.parametrize("run_id", [None, "run_2"])
def test_nobody_outside_spends_from_budgets_of_steps_of_other_runs(run_id: str | None) -> None:
    message = content_pb2.CallContext(parent_steps=[PARENT])
    with pytest.raises(Invalid) as refused:
        received_context(message, a_caller(run_id=run_id), SeededIds(1))
    assert refused.value.field == "context.parent_steps"


def test_a_run_uses_its_own_ids_and_budgets_and_names_the_steps_that_it_lies_below() -> None:
    message = a_call("run_1")
    message.budget_ids.append(BUDGET)
    message.parent_steps.append(PARENT)
    context, repeatable = received_context(message, a_caller(peer="orchestrator", run_id="run_1"), SeededIds(1))
    assert (context.call_id.run_id, context.budget_ids, repeatable) == ("run_1", (BUDGET,), True)
    assert context.parent_steps == (PARENT,)
    assert context_from_proto(context_to_proto(context)) == context


def test_a_service_asks_for_several_runs_at_once_only_where_that_is_meant() -> None:
    memory = a_caller(peer="memory", run_id="run_2")
    context, _ = received_context(a_call("run_1"), memory, SeededIds(1), for_others=True)
    assert context.call_id.run_id == "run_1"
    with pytest.raises(Invalid):
        received_context(a_call("run_1"), a_caller(run_id="run_2"), SeededIds(1), for_others=True)


@pytest.mark.parametrize(
    "caller",
    [
        a_caller(),
        a_caller(run_id="run_1"),
        a_caller(peer="memory", run_id="run_1"),
        a_caller(peer="orchestrator"),
    ],
)
def test_nobody_but_a_run_names_the_bundle_that_judges_it(caller: Caller) -> None:
    message = a_call("run_1" if caller.principal.run_id else "essay_1")
    message.bundle, message.bundle_digest = "strict@1.0.0", "ab"
    with pytest.raises(Invalid) as refused:
        received_context(message, caller, SeededIds(1))
    assert refused.value.field == "context.bundle"


def test_a_run_names_the_bundle_that_judges_it() -> None:
    message = a_call("run_1")
    message.bundle, message.bundle_digest = "strict@1.0.0", "ab"
    context, _ = received_context(message, a_caller(peer="orchestrator", run_id="run_1"), SeededIds(1))
    assert (context.bundle, context.bundle_digest) == ("strict@1.0.0", "ab")
