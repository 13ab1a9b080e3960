"""Works through the steps of a plan, until something outside has to answer."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Label, join
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.programs.planned_asks import (
    ask_for_plan,
    ask_to_choose,
    ask_to_extract,
    is_untrusted,
    origin_of,
    placed,
    show_for_replan,
)
from services.orchestrator.programs.planned_binding import bind, evaluate, filled, made, record_bound
from services.orchestrator.programs.planned_language import ROUND
from services.orchestrator.programs.planned_plan import (
    Answer,
    Call,
    Choose,
    Extract,
    If,
    Map,
    Repeat,
    Replan,
    Step,
    nested,
)
from services.orchestrator.programs.planned_references import references
from services.orchestrator.programs.planned_state import Frame, PlannedState
from services.orchestrator.programs.planned_values import (
    MAX_VALUE_BYTES,
    PlanStopped,
    Value,
    canonical,
    digest,
    items_of,
    joined,
    look_up,
    text_in,
)
from services.orchestrator.programs.values import Json, NotJson, ValueTooLarge, to_struct

MAX_PLANS: Final = 4
#: Steps that one turn may begin, those of all rounds and items counted.
MAX_STEPS_BEGUN: Final = 5_000


def go_on(state: PlannedState) -> bool:
    """Works through steps until a call has to be answered. Returns: True when the plan is done. Raises: PlanStopped."""
    while True:
        frame = state.frames[-1]
        if frame.at < len(frame.steps):
            step = frame.steps[frame.at]
            frame.at += 1
            state.steps_begun += 1
            if state.steps_begun > MAX_STEPS_BEGUN:
                raise PlanStopped("PLAN_WITHOUT_END", f"the plan comes to more than {MAX_STEPS_BEGUN} steps")
            state.step, state.place = step, f"{frame.path}{step.key}"
            if _begin(state, frame, step):
                return False
        elif len(state.frames) == 1:
            return True
        else:
            _close(state, frame)


def ask_again(state: PlannedState) -> None:
    """Asks the planner for the rest of the plan."""
    step, plan = state.step, state.plan
    if not isinstance(step, Replan) or plan is None:
        raise PlanStopped("PLAN_OUT_OF_STEP", "a new plan was asked for where no step does")
    known = sorted({name for scope in state.scopes for name in scope})
    show_for_replan(state, plan.written, known, step.reason)
    ask_for_plan(state)


def _begin(state: PlannedState, frame: Frame, step: Step) -> bool:
    """Begins a step. Returns: True when something outside has to answer."""
    match step:
        case Call():
            _tool(state, step)
            return True
        case Extract():
            ask_to_extract(state, step, filled(state, list(step.reading)))
            return True
        case Choose():
            _choose(state, step)
            return True
        case Replan():
            _show(state, step)
            return True
        case If():
            _branch(state, frame, step)
        case Map():
            _expand(state, frame, step)
        case Repeat():
            _open_round(state, step, state.place, frame.choice, 1)
        case Answer():
            answer = filled(state, step.template)
            state.answer = replace(answer, choice=join([answer.choice, state.choice, state.answer_choice]))
        case _:
            raise PlanStopped("PLAN_OUT_OF_STEP", "the plan has a step that no release knows")
    return False


def _tool(state: PlannedState, step: Call) -> None:
    if state.tool_calls_left == 0:
        sentence = "the plan calls more tools than max_tool_calls of the agent allows; raise it"
        raise PlanStopped("TOOL_CALLS_EXHAUSTED", sentence)
    state.tool_calls_left -= 1
    given = {name: filled(state, template) for name, template in sorted(step.arguments.items())}
    state.arguments = joined(state.plan_label, given.values())
    try:
        state.sent = to_struct({name: one.data for name, one in given.items()})
    except (ValueTooLarge, NotJson, ValueError) as cause:
        raise PlanStopped("VALUE_TOO_LARGE", f"the arguments of {step.tool} are larger than a call may hold") from cause
    tool = next(tool for tool in state.tools if tool.name == step.tool)
    # Tools label what they answer by what led to the call, so they are told of the arguments as well.
    label = join([state.choice, state.arguments.read])
    request = tool_service_pb2.InvokeToolRequest(
        name=f"{tool.name}@{tool.version}" if tool.version else tool.name,
        arguments=state.sent,
        choice_label=label_to_proto(label),
    )
    origins = [origin_of(name, one) for name, one in given.items() if one.references]
    state.out.append(placed(state, state.call(journal_pb2.CALL_KIND_TOOL, request), origins, state.place))


def _choose(state: PlannedState, step: Choose) -> None:
    if isinstance(step.options, str):
        state.options = items_of(look_up(step.options, state.scopes), of=step.options)
    else:
        state.options = [Value(data=option, label=state.plan_label) for option in step.options]
    if not state.options:
        raise PlanStopped("LIST_EMPTY", f"there is nothing to choose from at {state.place!r}")
    shown = [text_in((option.at(step.show) if step.show else option).plain()) for option in state.options]
    ask_to_choose(state, step, shown, filled(state, list(step.reading)))


def _branch(state: PlannedState, frame: Frame, step: If) -> None:
    taken, label, looked_at, values = evaluate(state, step.conditions)
    fact = journal_pb2.BranchTaken(
        place=state.place, taken=taken, references=looked_at, value_digest=values, label=label_to_proto(label)
    )
    state.record(journal_pb2.JournalEntry(branch_taken=fact))
    _steer_answer(state, [*step.then, *step.otherwise], frame.choice.joined(label))
    opened = Frame(
        steps=step.then if taken else step.otherwise,
        path=f"{state.place}/{'then' if taken else 'else'}/",
        choice=frame.choice.joined(label),
        scope={},
        owner=step,
        place=state.place,
        taken=taken,
    )
    state.frames.append(opened)


def _expand(state: PlannedState, frame: Frame, step: Map) -> None:
    if isinstance(step.over, str):
        whole = look_up(step.over, state.scopes)
        items = items_of(whole, of=step.over)
        label = whole.label.joined(whole.choice)
    else:
        items, label = [Value(data=item, label=state.plan_label) for item in step.over], state.plan_label
    if len(items) > step.at_most:
        sentence = f"the list at {state.place!r} has {len(items)} items, and the plan allows {step.at_most}"
        raise PlanStopped("MAP_TOO_LONG", sentence)
    fact = journal_pb2.ListMapped(
        place=state.place,
        count=len(items),
        at_most=step.at_most,
        references=references(step.over),
        item=step.item,
        label=label_to_proto(label),
    )
    state.record(journal_pb2.JournalEntry(list_mapped=fact))
    _steer_answer(state, step.do, frame.choice.joined(label))
    first = Frame(steps=step.do, path="", choice=frame.choice.joined(label), scope={}, owner=step, place=state.place)
    first.items = items
    _open_item(state, step, first)


def _steer_answer(state: PlannedState, steps: Iterable[Step], label: Label) -> None:
    """Joins what decided whether steps are made into the answer's label, where one of them is an answer.

    An answer that was *not* given is told by the one that stands.
    """
    if any(isinstance(step, Answer) for step in nested(steps)):
        state.answer_choice = state.answer_choice.joined(label)
        if state.answer is not None:
            state.answer = replace(state.answer, choice=state.answer.choice.joined(label))


def _open_item(state: PlannedState, step: Map, before: Frame) -> None:
    """Opens the next item of a map, or gives the list of what all have given."""
    given = before.given
    if len(given) < len(before.items):
        opened = replace(
            before,
            at=0,
            path=f"{before.place}[{len(given)}]/",
            scope={step.item: before.items[len(given)]},
        )
        state.frames.append(opened)
        return
    if step.name:
        label = join([state.plan_label, *(value.whole_label() for value in given)])
        picked = join([before.choice, *(value.whole_choice() for value in given)])
        state.step, state.place = step, before.place
        value = Value(data=[value.plain() for value in given], label=label, choice=picked)
        bind(state, value, made_from=references(step.gives))


def _open_round(state: PlannedState, step: Repeat, place: str, choice: Label, turn: int) -> None:
    """Opens a round of a loop, with values carried in from the round before, which is closed."""
    templates = {name: both[0 if turn == 1 else 1] for name, both in sorted(step.carry.items())}
    carried = {name: made(state, template).steered(choice) for name, template in templates.items()}
    if turn > 1:
        state.frames.pop()
    path = f"{place}[{turn}]/"
    for name, value in carried.items():
        record_bound(state, f"{path}{name}", value, made_from=references(templates[name]))
    scope = carried | {ROUND: Value(data=turn, label=state.plan_label)}
    opened = Frame(steps=step.do, path=path, choice=choice, scope=scope, owner=step, place=place, turn=turn)
    state.frames.append(opened)


def _close(state: PlannedState, frame: Frame) -> None:
    """Ends a nested row of steps: gives its value, opens the next item or round."""
    match frame.owner:
        case If() as step:
            template = None if step.gives is None else step.gives[0 if frame.taken else 1]
            given = None if step.gives is None else made(state, template)
            state.frames.pop()
            if given is not None:
                state.step, state.place = step, frame.place
                bind(state, given.steered(frame.choice), made_from=references(template))
        case Map() as step:
            given = _of_item(state, step.gives, frame)
            state.frames.pop()
            frame.given.append(given)
            _open_item(state, step, frame)
        case Repeat() as step:
            _end_round(state, frame, step)
        case _:
            raise PlanStopped("PLAN_OUT_OF_STEP", "a row of steps ended that no step has opened")


def _of_item(state: PlannedState, template: Json, frame: Frame) -> Value:
    given = made(state, template)
    frame.given_bytes += len(canonical(given.plain()))
    if frame.given_bytes > MAX_VALUE_BYTES:
        raise PlanStopped("VALUE_TOO_LARGE", f"the map at {frame.place!r} gives more than {MAX_VALUE_BYTES} bytes")
    return given


def _end_round(state: PlannedState, frame: Frame, step: Repeat) -> None:
    met, label, looked_at, values = evaluate(state, step.until)
    fact = journal_pb2.LoopTurned(
        place=frame.place,
        turn=frame.turn,
        met=met,
        at_most=step.at_most,
        references=looked_at,
        value_digest=values,
        label=label_to_proto(label),
    )
    state.record(journal_pb2.JournalEntry(loop_turned=fact))
    choice = frame.choice.joined(label)
    _steer_answer(state, step.do, choice)
    if not met and frame.turn < step.at_most:
        _open_round(state, step, frame.place, choice, frame.turn + 1)
        return
    if not met:
        sentence = f"the loop at {frame.place!r} did not find what it looks for in {step.at_most} rounds"
        raise PlanStopped("NOT_FOUND_IN_TIME", sentence)
    given = made(state, step.gives).steered(choice)
    state.frames.pop()
    if step.name:
        found = Value(data=True, label=state.plan_label, choice=choice, alternatives=2)
        state.step, state.place = step, frame.place
        value = Value(data={}, label=state.plan_label, parts={"found": found, "value": given})
        bind(state, value, made_from=references(step.gives))


def _show(state: PlannedState, step: Replan) -> None:
    """Gathers what the planner is to be shown; text from outside waits for a person to read it first."""
    state.shown, state.unread, state.references_shown = {}, [], step.shown
    told: list[journal_pb2.Shown] = []
    for name, reference in sorted(step.shown.items()):
        found = look_up(reference, state.scopes)
        value = replace(found, data=found.plain(), parts={}, label=found.whole_label(), choice=found.whole_choice())
        state.shown[name] = value
        told.append(
            journal_pb2.Shown(
                name=name,
                reference=reference,
                value_digest=digest(value.data),
                label=label_to_proto(value.label.joined(value.choice)),
                alternatives=value.alternatives,
            )
        )
        if is_untrusted(value.label) and not is_untrusted(state.plan_label):
            state.unread.append(name)
    asked = journal_pb2.ReplanAsked(place=state.place, reason=step.reason, shown=told)
    state.record(journal_pb2.JournalEntry(replan_asked=asked))
    if state.plans >= MAX_PLANS:
        raise PlanStopped("TOO_MANY_PLANS", f"the planner asks for more than {MAX_PLANS} plans in one turn")
    if not state.unread:
        ask_again(state)
