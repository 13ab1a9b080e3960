"""What models without tools answered: typed fields of texts, and one of a list."""

from dataclasses import replace
from typing import cast

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.programs.planned_binding import bind
from services.orchestrator.programs.planned_plan import Choose, Extract
from services.orchestrator.programs.planned_references import references
from services.orchestrator.programs.planned_state import PlannedState
from services.orchestrator.programs.planned_values import PlanStopped, Value, digest
from services.orchestrator.programs.values import Json


def take_extract(state: PlannedState, call_index: int, data: Json) -> None:
    """Gives the step its fields. Raises: PlanStopped: they are not what the plan asks for."""
    step, read = state.step, state.read()
    if not isinstance(step, Extract) or not isinstance(data, dict):
        raise _wrong("EXTRACT_WRONG_SHAPE", state)
    found = cast("dict[str, Json]", data)
    if found.keys() != step.fields.keys():
        raise _wrong("EXTRACT_WRONG_SHAPE", state)
    parts: dict[str, Value] = {}
    for name, kind in step.fields.items():
        if not kind.fits(found[name]):
            raise _wrong("EXTRACT_WRONG_TYPE", state)
        closed = kind.alternatives
        # The plan wrote the members of a closed set; what was read only picked one.
        parts[name] = Value(
            data=found[name],
            label=state.plan_label if closed else read,
            choice=read if closed else BOTTOM,
            alternatives=closed,
        )
    bind(state, Value(data={}, label=state.plan_label, parts=parts), call_index=call_index)


def take_choice(state: PlannedState, call_index: int, chosen: Json) -> None:
    """Gives the step what was picked. Raises: PlanStopped: it is not of the list."""
    step, read, count = state.step, state.read(), len(state.options)
    if not isinstance(step, Choose) or not isinstance(chosen, int) or isinstance(chosen, bool):
        raise _wrong("CHOICE_NOT_IN_LIST", state)
    if not 0 <= chosen < count:
        raise _wrong("CHOICE_NOT_IN_LIST", state)
    fact = journal_pb2.ChoiceMade(
        place=state.place,
        call_index=call_index,
        chosen=chosen,
        alternatives=count,
        options_digest=digest([option.plain() for option in state.options]),
        label=label_to_proto(read),
    )
    state.record(journal_pb2.JournalEntry(choice_made=fact))
    option = state.options[chosen]
    value = replace(option, choice=option.choice.joined(read), alternatives=count)
    bind(state, value, made_from=references(step.options))


def _wrong(reason: str, state: PlannedState) -> PlanStopped:
    return PlanStopped(reason, f"the model that reads for {state.place!r} did not answer what the plan asks for")
