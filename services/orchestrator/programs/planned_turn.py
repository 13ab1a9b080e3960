"""One turn of one agent that plans: a model writes a plan, and the plan is carried out without it.

    StepStarted ─▶ describe tools ─▶ recall ─▶ plan ─▶ step ─▶ step ─▶ … ─▶ remember ─▶ CompleteStep
                                                ▲        │
                                                └ replan ┘

The planner sees the request, the tools, and what ReplanAsked names; never what a tool answered. Every value carries two
labels (see `planned_values`), every row of steps a third: the join of what led there. Each call and each decision is
journalled, so that whoever has the run next goes on with it, however much later.

Source: docs/decisions/0010-planned-turns.md
"""

from dataclasses import replace
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Integrity, Label, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.programs import planned_language as language
from services.orchestrator.programs.commands import Command, FailStep
from services.orchestrator.programs.output_schema import OutputBreaksSchema
from services.orchestrator.programs.planned_asks import (
    PLAN_FILE,
    answer_in,
    ask_for_plan,
    is_untrusted,
    plan_in,
    plan_prompt,
    refuse_plan,
    result_in,
)
from services.orchestrator.programs.planned_binding import bind, record_bound, with_outcome
from services.orchestrator.programs.planned_plan import Call, PlanNotTaken
from services.orchestrator.programs.planned_readers import take_choice, take_extract
from services.orchestrator.programs.planned_state import Frame, PlannedState
from services.orchestrator.programs.planned_steps import ask_again, go_on
from services.orchestrator.programs.planned_values import PlanStopped, Value, digest, keys_of, text_in
from services.orchestrator.programs.prompting import Said
from services.orchestrator.programs.speaking import TurnInputs, label_of, text_of
from services.orchestrator.programs.values import Json, from_value

VERSION: Final = 1
#: Facts in which such a turn records what it has decided.
DECIDED: Final = frozenset(
    {
        *("plan_recorded", "plan_refused", "variable_bound", "branch_taken", "list_mapped", "loop_turned"),
        *("choice_made", "replan_asked", "label_lowered"),
    }
)
#: Signal by which a person says that they have read what a planner is to be shown: `{"digest": HEX, "allowed": true}`.
READ_SIGNAL: Final = "plan.read"
_DEFAULT_TOOL_CALLS: Final = 100
#: Answers of the planner in one turn that may be none.
_MAX_REFUSED: Final = 3
TOOL_FAILED: Final = "TOOL_FAILED"


def begin(
    inputs: TurnInputs, entry: journal_pb2.JournalEntry, *, first_call: int = 0
) -> tuple[PlannedState, tuple[Command, ...]]:
    """Starts a turn from its StepStarted fact.

    Args:
        first_call: number of calls that earlier attempts of the step have made.
    """
    state = PlannedState(path=entry.path, inputs=inputs, calls_made=first_call)
    state.open(entry)
    state.tool_calls_left = inputs.agent.max_tool_calls or _DEFAULT_TOOL_CALLS
    if PLAN_FILE not in inputs.prompts:
        message = "the run was started before agents could plan, and pinned no prompt for it; start a new one"
        return state, (FailStep(path=state.path, reason="PLAN_PROMPT_MISSING", message=message, final=True),)
    try:
        if inputs.agent.tools:
            state.out.append(state.describe_tools())
        else:
            _begin_to_plan(state)
    except PlanStopped as stopped:
        _fail(state, stopped)
    return state, _taken(state)


def decide(state: PlannedState, entry: journal_pb2.JournalEntry) -> tuple[PlannedState, tuple[Command, ...]]:
    """Takes a fact from outside, and says what follows until something outside has to answer."""
    try:
        match entry.WhichOneof("fact"):
            case "call_answered":
                _on_answer(state, entry)
            case "call_failed":
                _on_failure(state, entry)
            case "signal_received":
                _on_signal(state, entry.signal_received)
            case _:
                pass  # CallHeld and CallDecided: the call's answer or failure follows.
    except PlanStopped as stopped:
        _fail(state, stopped)
    return state, _taken(state)


def _fail(state: PlannedState, stopped: PlanStopped) -> None:
    state.out.append(FailStep(path=state.path, reason=stopped.reason, message=str(stopped)))


def _taken(state: PlannedState) -> tuple[Command, ...]:
    commands = tuple(state.out)
    state.out.clear()
    return commands


def _on_answer(state: PlannedState, entry: journal_pb2.JournalEntry) -> None:
    answer = entry.call_answered
    match answer.kind:
        case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
            state.tools = list(tool_service_pb2.ListToolsResponse.FromString(answer.response).tools)
            _begin_to_plan(state)
        case journal_pb2.CALL_KIND_RECALL:
            recalled = memory_service_pb2.RecallResponse.FromString(answer.response)
            _take_recall(state, recalled, call_index=answer.call_index)
        case journal_pb2.CALL_KIND_TOOL:
            _on_result(state, answer)
        case journal_pb2.CALL_KIND_REMEMBER:
            state.remembered(memory_service_pb2.RememberResponse.FromString(answer.response))
            _complete(state, entry)
        case _:
            _on_generation(state, answer)


def _on_failure(state: PlannedState, entry: journal_pb2.JournalEntry) -> None:
    failure = entry.call_failed
    match failure.kind:
        case journal_pb2.CALL_KIND_RECALL if not state.inputs.agent.memory.required:
            state.turn.without_recall = True
            _take_recall(state, memory_service_pb2.RecallResponse())
        case journal_pb2.CALL_KIND_REMEMBER if not state.inputs.agent.memory.required:
            _complete(state, entry)
        case journal_pb2.CALL_KIND_TOOL if isinstance(state.step, Call) and state.step.may_fail:
            _used(state, state.step, f"{failure.reason}: {failure.message}", failed=True)
            value = Value(data={}, label=_word_of(state.step).joined(state.read()))
            _bind_result(state, value, failure.call_index, reason=failure.reason)
        case _:
            failed = FailStep(path=state.path, reason=failure.reason, message=failure.message, final=failure.final)
            state.out.append(failed)


def _on_generation(state: PlannedState, answer: journal_pb2.CallAnswered) -> None:
    generation = generation_pb2.Generation.FromString(answer.response)
    state.spend(generation)
    if answer.kind == journal_pb2.CALL_KIND_PLAN:
        _take_plan(state, answer.call_index, generation)
        return
    data = answer_in(generation, state.place)
    if answer.kind == journal_pb2.CALL_KIND_EXTRACT:
        take_extract(state, answer.call_index, data)
    else:
        take_choice(state, answer.call_index, data)
    _go_on(state)


def _on_result(state: PlannedState, answer: journal_pb2.CallAnswered) -> None:
    invocation = tool_service_pb2.Invocation.FromString(answer.response)
    state.spend_on_tool(invocation)
    step, text = state.step, text_of(invocation.parts)
    if not isinstance(step, Call):
        raise PlanStopped("PLAN_OUT_OF_STEP", "a tool answered whom no step has called")
    _used(state, step, text, failed=invocation.failed)
    label = label_of(invocation.parts) if invocation.parts else _word_of(step).joined(state.read())
    if invocation.failed and not step.may_fail:
        raise PlanStopped(TOOL_FAILED, f"{step.tool} failed at {state.place!r}, and the plan does not say what then")
    data: Json = {} if invocation.failed else result_in(text)
    reason = TOOL_FAILED if invocation.failed else ""
    _bind_result(state, Value(data=data, label=label, verbatim=True), answer.call_index, reason=reason)


def _bind_result(state: PlannedState, value: Value, call_index: int, *, reason: str) -> None:
    """Gives the step what its tool answered: picked by whatever was in the arguments."""
    if isinstance(state.step, Call) and state.step.may_fail:
        value = with_outcome(state, value, ok=not reason, reason=reason)
    bind(state, value.steered(state.read()), call_index=call_index)
    _go_on(state)


def _word_of(step: Call) -> Label:
    """Labels what a tool brought about without saying where it comes from: with the most care."""
    return Label(integrity=Integrity.UNTRUSTED, sources=frozenset({f"tool:{step.tool}"}))


def _used(state: PlannedState, step: Call, text: str, *, failed: bool) -> None:
    state.used(step.tool, state.sent, text, failed=failed)


def _begin_to_plan(state: PlannedState) -> None:
    """Recalls what there is to recall, and else asks for the plan at once."""
    if state.recalls:
        state.out.append(state.recall())
    else:
        _take_recall(state, memory_service_pb2.RecallResponse())


def _take_recall(
    state: PlannedState, recalled: memory_service_pb2.RecallResponse, *, call_index: int | None = None
) -> None:
    """Asks for the plan. What was written outside the planner may refer to, and does not see."""
    inputs = state.inputs
    asked = inputs.label if inputs.asked_label is None else inputs.asked_label
    state.label = asked
    recent = state.heard(recalled)
    said = [_shown(state, "said", one.text, one.label, number) for number, one in enumerate(recent, 1)]
    memories = [
        _shown(state, "memory", text_of(match.memory.parts), label_of(match.memory.parts), number)
        for number, match in enumerate(recalled.semantic, 1)
    ]
    data = {
        name: _shown(state, "data", text, inputs.label, number)
        for number, (name, text) in enumerate(sorted(inputs.data.items()), 1)
    }
    for name, value in state.withheld.items():
        # Turns that a fork took over lie in no recall.
        in_recall = not name.startswith("data_") and not inputs.adopted
        record_bound(state, name, value, call_index=call_index if in_recall else None)
    what = {
        **{f"said_{number}": f"what {one.speaker} said" for number, one in enumerate(recent, 1)},
        **{f"memory_{number}": "something that you remember" for number in range(1, len(memories) + 1)},
        **{f"data_{number}": f"{name!r}, which you are given" for number, name in enumerate(data, 1)},
    }
    spoken = [Said(speaker=one.speaker, text=text, label=one.label) for one, text in zip(recent, said, strict=True)]
    scene = replace(state.scene(spoken, memories), data=data)
    state.plan_label = state.label
    prompt = plan_prompt(state, scene, {name: what[name] for name in state.withheld})
    state.show(prompt, recent, recalled)
    ask_for_plan(state)


def _shown(state: PlannedState, kind: str, text: str, label: Label, number: int) -> str:
    """Gives the text as the planner sees it; what was written outside becomes a name of the plan."""
    if is_untrusted(label) and not is_untrusted(state.label):
        name = f"{kind}_{number}"
        state.withheld[name] = Value(data=result_in(text), label=label)
        return f"(written outside: `${name}`)"
    state.label = state.label.joined(label)
    return text


def _take_plan(state: PlannedState, call_index: int, generation: generation_pb2.Generation) -> None:
    scope = dict(state.withheld)
    for frame in state.frames:
        scope.update(frame.scope)
    try:
        plan = language.plan_of(plan_in(generation), tools=(tool.name for tool in state.tools), known=scope)
    except PlanNotTaken as refused:
        _refuse(state, call_index, generation, refused)
        return
    state.plans += 1
    read = [value.label.joined(value.choice) for value in state.shown.values()]
    state.plan_label = join([state.plan_label, state.choice, *read])
    recorded = journal_pb2.PlanRecorded(
        plan=state.plans,
        language_version=language.VERSION,
        plan_digest=digest(plan.written),
        call_index=call_index,
        label=label_to_proto(state.plan_label),
        steps=plan.count,
    )
    state.record(journal_pb2.JournalEntry(plan_recorded=recorded))
    path = f"plan{state.plans}/" if state.plans > 1 else ""
    for frame in state.frames[1:]:
        # What was bound inside of a condition or a loop is seen from the new plan under its own place.
        for name, value in frame.scope.items():
            record_bound(state, f"{path}{name}", value, made_from=(f"${name}",))
    state.plan = plan
    state.shown = {}
    state.frames = [Frame(steps=plan.steps, path=path, choice=state.plan_label, scope=scope)]
    _go_on(state)


def _refuse(state: PlannedState, call_index: int, generation: generation_pb2.Generation, refused: PlanNotTaken) -> None:
    """Asks the planner again, a few times: what it reads then is its own answer and a reason."""
    fact = journal_pb2.PlanRefused(call_index=call_index, reason=refused.reason, place=refused.place)
    state.record(journal_pb2.JournalEntry(plan_refused=fact))
    state.refused += 1
    if state.refused >= _MAX_REFUSED:
        where = f" at {refused.place!r}" if refused.place else ""
        sentence = f"the model wrote no plan in {_MAX_REFUSED} answers; the last is none for {refused.reason}{where}"
        raise PlanStopped("PLAN_REFUSED", f"{sentence}. Give the agent a model that can plan, or let it react")
    refuse_plan(state, text_of(generation.parts), refused)
    ask_for_plan(state)


def waits_for(state: PlannedState, signal: journal_pb2.SignalReceived) -> bool:
    """Says whether a signal is about a text that a person is to read for the planner."""
    return signal.name == READ_SIGNAL and is_person(signal.by) and bool(_read_now(state, signal))


def is_person(subject: str) -> bool:
    """Says whether a subject is somebody who can read, and no key."""
    return subject.startswith("user_")


def _on_signal(state: PlannedState, signal: journal_pb2.SignalReceived) -> None:
    """Goes on when a person has read what the planner is to be shown, and let it stand for their own words."""
    name = _read_now(state, signal)
    value = state.shown[name]
    allowed = keys_of(from_value(signal.payload)).get("allowed") is True
    label = replace(value.label, integrity=Integrity.USER, sources=value.label.sources | {f"user:{signal.by}"})
    fact = journal_pb2.LabelLowered(
        reference=state.references_shown[name],
        value_digest=digest(value.data),
        allowed=allowed,
        by=signal.by,
        label=label_to_proto(label),
    )
    state.record(journal_pb2.JournalEntry(label_lowered=fact))
    if not allowed:
        raise PlanStopped("NOT_ENDORSED", "a person read what the planner was to be shown, and did not let it pass")
    state.unread.remove(name)
    state.shown[name] = replace(value, label=label, choice=BOTTOM)
    if not state.unread:
        ask_again(state)


def _read_now(state: PlannedState, signal: journal_pb2.SignalReceived) -> str:
    """Names the value that waits to be read and has the digest that a signal holds; nothing when there is none."""
    wanted = keys_of(from_value(signal.payload)).get("digest")
    return next((name for name in state.unread if digest(state.shown[name].data).hex() == wanted), "")


def _go_on(state: PlannedState) -> None:
    """Works through steps until a call has to be answered, and ends the turn when the plan is done."""
    if not go_on(state):
        return
    answer = state.answer
    if answer is None:
        raise PlanStopped("PLAN_WITHOUT_ANSWER", "the plan has come to its end and says nothing to the user")
    text = text_in(answer.data)
    if state.inputs.output_schema is not None:
        try:
            state.output = state.inputs.output_schema.read(text)
        except OutputBreaksSchema as error:
            raise PlanStopped(error.reason, str(error)) from error
    part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=label_to_proto(answer.read))
    state.said = part
    state.out.append(state.remember([part]))


def _complete(state: PlannedState, entry: journal_pb2.JournalEntry) -> None:
    state.out.append(state.complete(entry, [state.said]))
