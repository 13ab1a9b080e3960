"""Whose call it is, read from a request and checked by the service that is asked to let bytes out."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from comitia.common.v1 import content_pb2
from services.meshkit.content.call import DIRECT, KEYED, MOST_PARENT_STEPS, SHADOW, CallContext
from services.meshkit.content.proto import context_from_proto
from services.meshkit.core.errors import Invalid, MeshError, RequestIdReused
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource, from_uuid, to_uuid
from services.meshkit.core.once import request_uuid

#: How the ids begin that the mesh makes: of runs, of batches, and of calls that no run makes.
_MADE_BY_THE_MESH: Final = ("run_", "batch_", f"{DIRECT}_", f"{KEYED}_", f"{SHADOW}_")
#: The service that makes the calls of runs.
_RUNS: Final = "orchestrator"
_MOST_NAME: Final = 128
_MOST_PATH: Final = 512
_MOST_BUDGETS: Final = 16


def received_context(
    message: content_pb2.CallContext,
    caller: Caller,
    ids: IdSource,
    *,
    request_id: str = "",
    method: str = "",
    for_others: bool = False,
) -> tuple[CallContext, bool]:
    """Reads whose call it is, and whether it can be repeated by its id; a direct caller without an id gets one.

    A token that is bound to a project counts for that project, whatever the request says. The token of a run calls in
    that run's name only, and nobody from outside in the name of a run, or out of its budget.

    Args:
        request_id: of a direct caller; it becomes the call's id. Empty without one.
        method: name of the RPC, such as `Generate`: the same id means another call there.
        for_others: whether a service of the mesh may ask for other runs than the one that its token is for, as memory
            does that embeds for many at once.
    Raises: Invalid, naming the field.
    """
    asked = request_uuid(request_id)
    if asked is not None and message.ByteSize():
        raise Invalid("request_id", "is for calls without `context`; there `context.call_id` makes a repeat harmless")
    context = context_from_proto(message)
    call = context.call_id
    for field, value, most in (
        ("call_id.run_id", call.run_id, _MOST_NAME),
        ("call_id.path", call.path, _MOST_PATH),
        ("agent_name", context.agent_name, _MOST_NAME),
        ("agent_version", context.agent_version, _MOST_NAME),
        ("project", context.project, _MOST_NAME),
        ("residency_region", context.residency_region, _MOST_NAME),
        ("bundle", context.bundle, _MOST_NAME),
        ("bundle_digest", context.bundle_digest, _MOST_NAME),
    ):
        if len(value) > most or "\x00" in value:
            raise Invalid(f"context.{field}", f"must have at most {most} characters, none of them NUL")
    if call.attempt_group < 0:
        raise Invalid("context.call_id.attempt_group", "must not be negative")
    if call.index < 0:
        raise Invalid("context.call_id.call_index", "must not be negative")
    if len(context.budget_ids) > _MOST_BUDGETS:
        raise Invalid("context.budget_ids", f"must name at most {_MOST_BUDGETS} budgets")
    for index, budget in enumerate(context.budget_ids):
        to_uuid(budget, "budget", field=f"context.budget_ids[{index}]")
    check_parent_steps(context)
    _check_whose(context, caller, for_others=for_others)
    if caller.principal.project is not None:
        context = replace(context, project=caller.principal.project)
    if call.run_id:
        return context, True
    if asked is not None:
        run = caller.principal.run_id
        # A token that acts for a run calls in the run's name only, and its calls have ids of the run's.
        if run is not None:
            raise Invalid("request_id", "is for direct callers; send `context.call_id` with the token of a run")
        return replace(context, call_id=replace(call, run_id=from_uuid(DIRECT, asked), path=method)), True
    if caller.peer is not None:
        raise Invalid("context.call_id.run_id", "is required of a service of the mesh")
    return replace(context, call_id=replace(call, run_id=ids.new(DIRECT))), False


def check_parent_steps(context: CallContext) -> None:
    """Accepts steps of runs only, each by run and path. Raises: Invalid, naming the one."""
    if len(context.parent_steps) > MOST_PARENT_STEPS:
        raise Invalid("context.parent_steps", f"must name at most {MOST_PARENT_STEPS} steps")
    for index, step in enumerate(context.parent_steps):
        field = f"context.parent_steps[{index}]"
        run_id, _, path = step.partition("/")
        to_uuid(run_id, "run", field=field)
        if not path or len(path) > _MOST_PATH or "\x00" in path:
            raise Invalid(field, f"must be a run and a path of 1 to {_MOST_PATH} characters, none of them NUL")


def _check_whose(context: CallContext, caller: Caller, *, for_others: bool) -> None:
    """Checks that a caller may use a call id and budgets: a run its own, everybody outside none that the mesh makes.

    Otherwise one who knows a run's next call could make it before the run does, take its recorded answer, or use its
    money up.
    """
    run, named = caller.principal.run_id, context.call_id.run_id
    if caller.peer is None and context.budget_ids:
        raise Invalid("context.budget_ids", "is for services of the mesh; leave it empty, the tenant's budget pays")
    if caller.peer is None and context.parent_steps:
        raise Invalid("context.parent_steps", "is for services of the mesh; leave it empty")
    if context.bundle or context.bundle_digest:
        _check_law(caller, named)
    if caller.peer is not None and (run is None or for_others):
        return
    if run is not None and named and named != run:
        raise Invalid("context.call_id.run_id", f"must be {run}, the run that the token is for")
    if run is None and named.startswith(_MADE_BY_THE_MESH):
        sentence = "is for calls of that run; leave it empty, or choose a name that is no id of the mesh"
        raise Invalid("context.call_id.run_id", sentence)


def _check_law(caller: Caller, named: str) -> None:
    """Lets the orchestrator alone name another law, for the run that its token is for."""
    if caller.peer != _RUNS or named != caller.principal.run_id:
        raise Invalid("context.bundle", "is for forks under another policy; leave it empty, the tenant's law judges")


@contextmanager
def as_reused(request_id: str, differs: type[MeshError]) -> Generator[None]:
    """Tells a direct caller in its own words that its request id came with another request before.

    Args:
        differs: what the service raises when a call id comes with other arguments.
    """
    try:
        yield
    except differs as cause:
        if request_id:
            raise RequestIdReused(request_id) from cause
        raise
