"""The decider of a planned turn: `decide(state, fact) -> (state, commands)`. No clock, no dice, no IO.

    TurnStarted ─▶ plan ─▶ step ─▶ step ─▶ … ─▶ TurnEnded
                    ▲        │
                    └ replan ┘

The planner sees the request, the tools, and what ReplanAsked names; never what a tool answered. Every value carries two
labels (see `values`), every frame of steps a third: the join of what led there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import language
from binding import bind, bound, evaluate, filled, in_context, label_read, made, outcome_of, result_of, scopes
from language import PlanRefused, place_of, verb_of
from state import Command, Frame, MakeCall, Record, State
from values import BOTTOM, ReferenceMissing, Value, as_text, digest, encode, look_up, references, untrusted
from wire import pb

from services.meshkit.content import Label, join
from services.meshkit.content.proto import label_from_proto, label_to_proto

MAX_PLANS: Final = 4


def decide(state: State, fact: Any) -> tuple[State, list[Command]]:
    """Takes a fact from outside, and says what follows until something outside has to answer."""
    out: list[Command] = []
    try:
        match fact.WhichOneof("fact"):
            case "turn_started":
                state.request = fact.turn_started.request
                state.label = state.plan_label = label_from_proto(fact.turn_started.label)
                _call(state, out, pb.CALL_KIND_PLAN, {"request": state.request}, place="")
            case "call_answered":
                _answered(state, out, fact.call_answered)
            case "call_failed":
                _failed(state, out, fact.call_failed)
            case "label_lowered":
                _lowered(state, out, fact.label_lowered)
            case _:
                pass  # CallHeld and CallDecided: the call's answer or failure follows.
    except ReferenceMissing:
        _end(state, out, reason="REFERENCE_MISSING")
    except PlanRefused as refused:
        _end(state, out, reason=refused.reason)
    return state, out


# ---------------------------------------------------------------------------------------------- answers from outside


def _answered(state: State, out: list[Command], answered: Any) -> None:
    data = json.loads(answered.response)
    if answered.kind == pb.CALL_KIND_PLAN:
        _take_plan(state, out, answered.call_index, data)
    elif answered.kind == pb.CALL_KIND_EXTRACT:
        _take_extract(state, out, answered.call_index, data)
    elif answered.kind == pb.CALL_KIND_CHOOSE:
        _take_choice(state, out, answered.call_index, data)
    else:
        value = result_of(state, data)
        if state.step.get("may_fail"):
            value = replace(value, parts=outcome_of(state, value, ok=True, reason=""))
        bind(state, out, value, call_index=answered.call_index)
    _advance(state, out)


def _failed(state: State, out: list[Command], failed: Any) -> None:
    if failed.kind == pb.CALL_KIND_TOOL and state.step.get("may_fail"):
        value = result_of(state, {})
        value = replace(value, parts=outcome_of(state, value, ok=False, reason=failed.reason))
        bind(state, out, value, call_index=failed.call_index)
        _advance(state, out)
    else:
        _end(state, out, reason=failed.reason)


def _take_plan(state: State, out: list[Command], call_index: int, plan: Any) -> None:
    known = [name for frame in state.frames for name in frame.scope]
    try:
        steps = language.check(plan, tools=state.pinned.tools, known=known, allowed=state.pinned.allowed)
    except PlanRefused as refused:
        refusal = pb.PlanRefused(call_index=call_index, reason=refused.reason, place=refused.place)
        out.append(Record(pb.Fact(plan_refused=refusal)))
        raise
    state.plans += 1
    led = [frame.choice for frame in state.frames[-1:]]
    read = [shown.label.joined(shown.choice) for shown in state.shown.values()]
    state.plan_label = join([state.plan_label, *led, *read])
    recorded = pb.PlanRecorded(
        plan=state.plans,
        language_version=language.VERSION,
        plan_digest=digest(plan),
        call_index=call_index,
        label=label_to_proto(state.plan_label),
        steps=steps,
    )
    out.append(Record(pb.Fact(plan_recorded=recorded)))
    scope = {name: value for frame in state.frames for name, value in frame.scope.items()}
    path = f"plan{state.plans}/" if state.plans > 1 else ""
    state.frames = [Frame(steps=plan, path=path, choice=state.plan_label, scope=scope)]


def _take_extract(state: State, out: list[Command], call_index: int, data: Any) -> None:
    fields: Mapping[str, str] = state.step["fields"]
    if not isinstance(data, dict) or data.keys() != fields.keys():
        raise PlanRefused("EXTRACT_WRONG_SHAPE", state.place)
    read = label_read(state)
    parts: dict[str, Value] = {}
    for name, kind in fields.items():
        if not language.fits(data[name], kind):
            raise PlanRefused("EXTRACT_WRONG_TYPE", state.place)
        closed = language.alternatives(kind)
        # The plan wrote the members of a closed set; what was read only picked one.
        parts[name] = Value(
            data=data[name],
            label=state.plan_label if closed else read,
            choice=read if closed else BOTTOM,
            alternatives=closed,
        )
    bind(state, out, Value(data={}, label=state.plan_label, parts=parts), call_index=call_index)


def _take_choice(state: State, out: list[Command], call_index: int, data: Any) -> None:
    chosen, count = data.get("chosen"), len(state.options)
    if not isinstance(chosen, int) or not 0 <= chosen < count:
        raise PlanRefused("CHOICE_NOT_IN_LIST", state.place)
    read = label_read(state)
    made = pb.ChoiceMade(
        place=state.place,
        call_index=call_index,
        chosen=chosen,
        alternatives=count,
        options_digest=digest([option.plain() for option in state.options]),
        label=label_to_proto(read),
    )
    out.append(Record(pb.Fact(choice_made=made)))
    option = state.options[chosen]
    value = replace(option, choice=option.choice.joined(read), alternatives=count)
    options = state.step["choose"]
    bind(state, out, value, refs=references(options))


def _lowered(state: State, out: list[Command], lowered: Any) -> None:
    """Goes on when a person let the value pass that the planner is to be shown."""
    if not lowered.allowed:
        _end(state, out, reason="NOT_ENDORSED")
        return
    name, state.unread = state.unread, ""
    shown = state.shown[name]
    state.shown[name] = replace(shown, label=label_from_proto(lowered.label), choice=BOTTOM)
    _replan(state, out)


# ---------------------------------------------------------------------------------------------------- step by step


def _advance(state: State, out: list[Command]) -> None:
    """Works through steps until a call has to be answered or the plan is done."""
    while state.frames and not state.ended:
        frame = state.frames[-1]
        if frame.at < len(frame.steps):
            state.step, at = frame.steps[frame.at], frame.at
            frame.at += 1
            state.place = f"{frame.path}{place_of(state.step, at)}"
            if _begin(state, out, frame, state.step):
                return
        elif len(state.frames) == 1:
            _end(state, out)
        else:
            _close(state, out, frame)


def _begin(state: State, out: list[Command], frame: Frame, step: dict[str, Any]) -> bool:
    """Begins a step. Returns: True when something outside has to answer."""
    match verb_of(step):
        case "call":
            _tool(state, out, step)
            return True
        case "extract":
            _ask(state, out, pb.CALL_KIND_EXTRACT, step["extract"], {"fields": step["fields"], "step": step["as"]})
            return True
        case "choose":
            _choose(state, out, frame, step)
            return True
        case "replan":
            _show(state, out, step)
            return True
        case "if":
            _branch(state, out, frame, step)
        case "map":
            _expand(state, out, frame, step)
        case "repeat":
            _open_round(state, out, step, state.place, frame.choice, 1)
        case _:
            state.answer = filled(state, step["answer"])
    return False


def _tool(state: State, out: list[Command], step: dict[str, Any]) -> None:
    arguments = step.get("with", {})
    given = {name: filled(state, template) for name, template in sorted(arguments.items())}
    state.arguments = filled(state, arguments)
    request = {"call": step["call"], "with": {name: one.data for name, one in given.items()}}
    origins = [
        pb.ArgumentOrigin(
            argument=name,
            references=one.references,
            label=label_to_proto(one.label),
            choice_label=label_to_proto(one.choice),
            verbatim=one.verbatim,
        )
        for name, one in given.items()
        if one.references or state.pinned.labelling == "context"
    ]
    _call(state, out, pb.CALL_KIND_TOOL, request, place=state.place, arguments=origins)


def _choose(state: State, out: list[Command], frame: Frame, step: dict[str, Any]) -> None:
    options = step["choose"]
    if isinstance(options, str):
        whole = look_up(options, scopes(state))
        count = len(whole.plain())
        state.options = [whole.at(f"[{n}]") for n in range(count)]
    else:
        state.options = [Value(data=option, label=state.plan_label) for option in options]
    if not state.options:
        raise ReferenceMissing(as_text(options))
    show = step.get("show")
    shown = [as_text((option.at(show) if show else option).plain()) for option in state.options]
    extra = {"of": shown, "by": step["by"], "step": step["as"]}
    _ask(state, out, pb.CALL_KIND_CHOOSE, step["reading"], extra)


def _ask(state: State, out: list[Command], kind: Any, reading: list[Any], extra: dict[str, Any]) -> None:
    """Asks a model without tools. What it reads is given as it is; what it answers is held to a type or a list."""
    state.arguments = filled(state, reading)
    texts = [as_text(text) for text in state.arguments.data]
    origin = pb.ArgumentOrigin(
        argument="reading",
        references=state.arguments.references,
        label=label_to_proto(state.arguments.label),
        choice_label=label_to_proto(state.arguments.choice),
    )
    _call(state, out, kind, {"texts": texts, **extra}, place=state.place, arguments=[origin])


def _branch(state: State, out: list[Command], frame: Frame, step: dict[str, Any]) -> None:
    taken, label, refs, values = evaluate(state, step["if"])
    fact = pb.BranchTaken(
        place=state.place, taken=taken, references=refs, value_digest=digest(values), label=label_to_proto(label)
    )
    out.append(Record(pb.Fact(branch_taken=fact)))
    arm = "then" if taken else "else"
    state.frames.append(
        Frame(
            steps=step.get(arm, []),
            path=f"{state.place}/{arm}/",
            choice=frame.choice.joined(label),
            scope={},
            owner=step,
            place=state.place,
            taken=taken,
        )
    )


def _expand(state: State, out: list[Command], frame: Frame, step: dict[str, Any]) -> None:
    over = step["map"]
    if isinstance(over, str):
        whole = look_up(over, scopes(state))
        if not isinstance(whole.plain(), list):
            raise ReferenceMissing(over)
        items = [whole.at(f"[{n}]") for n in range(len(whole.plain()))]
        label = in_context(state, whole.list_label().joined(whole.choice))
    else:
        items, label = [Value(data=item, label=state.plan_label) for item in over], state.plan_label
    if len(items) > step["at_most"]:
        raise PlanRefused("MAP_TOO_LONG", state.place)
    fact = pb.MapExpanded(
        place=state.place,
        count=len(items),
        at_most=step["at_most"],
        references=references(over),
        item=step["item"],
        label=label_to_proto(label),
    )
    out.append(Record(pb.Fact(map_expanded=fact)))
    _open_item(state, out, step, state.place, frame.choice.joined(label), items, [])


def _open_item(
    state: State,
    out: list[Command],
    step: dict[str, Any],
    place: str,
    choice: Label,
    items: list[Value],
    given: list[Value],
) -> None:
    if len(given) < len(items):
        scope = {step["item"]: items[len(given)]}
        path = f"{place}[{len(given)}]/"
        opened = Frame(steps=step["do"], path=path, choice=choice, scope=scope, owner=step, place=place)
        opened.items, opened.given = items, given
        state.frames.append(opened)
        return
    if "as" in step:
        label = join([state.plan_label, *(value.whole_label() for value in given)])
        data = [value.plain() for value in given]
        picked = join([choice, *(value.whole_choice() for value in given)])
        state.step, state.place = step, place
        bind(state, out, Value(data=data, label=label, choice=picked), refs=references(step.get("gives")))


def _open_round(state: State, out: list[Command], step: dict[str, Any], place: str, choice: Label, turn: int) -> None:
    """Opens a round of a loop, with values carried in from the round before, which is closed."""
    templates = {name: both[min(turn, 2) - 1] for name, both in sorted(step.get("carry", {}).items())}
    carried = {name: made(state, template).steered(choice) for name, template in templates.items()}
    if turn > 1:
        state.frames.pop()
    path = f"{place}[{turn}]/"
    for name, value in carried.items():
        out.append(bound(f"{path}{name}", value, references(templates[name])))
    scope = carried | {"turn": Value(data=turn, label=state.plan_label)}
    state.frames.append(
        Frame(steps=step["do"], path=path, choice=choice, scope=scope, owner=step, place=place, turn=turn)
    )


def _close(state: State, out: list[Command], frame: Frame) -> None:
    """Ends a nested frame: gives its value, opens the next item or round."""
    step = frame.owner
    match verb_of(step):
        case "if":
            given = made(state, step["gives"][0 if frame.taken else 1]) if "gives" in step else None
            state.frames.pop()
            if given:
                state.step, state.place = step, frame.place
                refs = references(step["gives"][0 if frame.taken else 1])
                bind(state, out, given.steered(frame.choice), refs=refs)
        case "map":
            given = [*frame.given, made(state, step["gives"]) if "gives" in step else Value(data=None)]
            state.frames.pop()
            _open_item(state, out, step, frame.place, frame.choice, frame.items, given)
        case _:
            _end_round(state, out, frame, step)


def _end_round(state: State, out: list[Command], frame: Frame, step: dict[str, Any]) -> None:
    met, label, refs, values = evaluate(state, step["until"])
    fact = pb.LoopTurned(
        place=frame.place,
        turn=frame.turn,
        met=met,
        at_most=step["repeat"],
        references=refs,
        value_digest=digest(values),
        label=label_to_proto(label),
    )
    out.append(Record(pb.Fact(loop_turned=fact)))
    choice = frame.choice.joined(label)
    if met or frame.turn == step["repeat"]:
        found = Value(data=met, label=state.plan_label, choice=choice, alternatives=2)
        given = made(state, step["gives"]).steered(choice) if "gives" in step else Value(data=None)
        state.frames.pop()
        if not met:
            raise PlanRefused("NOT_FOUND_IN_TIME", frame.place)
        if "as" in step:
            state.step, state.place = step, frame.place
            value = Value(data={}, label=state.plan_label, parts={"found": found, "value": given})
            bind(state, out, value, refs=references(step.get("gives")))
        return
    _open_round(state, out, step, frame.place, choice, frame.turn + 1)


def _show(state: State, out: list[Command], step: dict[str, Any]) -> None:
    """Gathers what the planner is to be shown; text from outside waits for a person to read it first."""
    state.shown = {}
    told: list[Any] = []
    for name, reference in sorted(step["replan"].items()):
        value = look_up(reference, scopes(state))
        value = replace(value, data=value.plain(), parts={}, label=in_context(state, value.whole_label()))
        state.shown[name] = value
        told.append(
            pb.Shown(
                name=name,
                reference=reference,
                value_digest=digest(value.data),
                label=label_to_proto(value.label.joined(value.choice)),
                alternatives=value.alternatives,
            )
        )
        if untrusted(value.label):
            state.unread = name
    asked = pb.ReplanAsked(place=state.place, reason=step.get("reason", ""), shown=told)
    out.append(Record(pb.Fact(replan_asked=asked)))
    if state.plans >= MAX_PLANS:
        raise PlanRefused("TOO_MANY_PLANS", state.place)
    if not state.unread:
        _replan(state, out)


def _replan(state: State, out: list[Command]) -> None:
    shown = {name: value.data for name, value in state.shown.items()}
    _call(state, out, pb.CALL_KIND_PLAN, {"request": state.request, "shown": shown}, place=state.place)


# ---------------------------------------------------------------------------------------------------- facts, the end


def _call(
    state: State, out: list[Command], kind: Any, request: dict[str, Any], *, place: str, arguments: Sequence[Any] = ()
) -> None:
    choice = in_context(state, state.frames[-1].choice if state.frames else state.plan_label)
    encoded = encode(request)
    intended = pb.CallIntended(
        call_index=state.calls,
        kind=kind,
        request_digest=digest(request),
        request=encoded,
        place=place,
        arguments=arguments,
        choice_label=label_to_proto(choice),
    )
    state.calls += 1
    out.append(MakeCall(intended))


def _end(state: State, out: list[Command], *, reason: str = "") -> None:
    state.ended = True
    answer = state.answer
    text = as_text(answer.data) if answer and not reason else ""
    label = answer.label.joined(answer.choice) if answer else state.plan_label
    ended = pb.TurnEnded(answer=text, label=label_to_proto(label), reason=reason)
    out.append(Record(pb.Fact(turn_ended=ended)))
