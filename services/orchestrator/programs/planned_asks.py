"""What a planned turn asks models: a plan, typed fields of texts, one of a list; and how it reads their answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, cast

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content import Integrity, Label
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.programs.commands import MakeCall, Origin
from services.orchestrator.programs.output_schema import json_in
from services.orchestrator.programs.planned_language import MAX_PLAN_CHARACTERS
from services.orchestrator.programs.planned_plan import Choose, Extract, PlanNotTaken
from services.orchestrator.programs.planned_state import PlannedState
from services.orchestrator.programs.planned_values import Filled, PlanStopped, canonical, text_in
from services.orchestrator.programs.prompting import Scene, render, render_prompt
from services.orchestrator.programs.speaking import OPERATOR, message_of, text_of
from services.orchestrator.programs.values import Json, NotJson, ValueTooLarge, from_struct, from_value, to_value

PLAN_FILE: Final = "plan.j2"
REPLAN_FILE: Final = "replan.j2"
EXTRACT_FILE: Final = "extract.j2"
CHOOSE_FILE: Final = "choose.j2"
#: Tokens that a plan, and an extraction or choice, may have at least.
_PLAN_TOKENS: Final = 4_096
_READ_TOKENS: Final = 1_024


def plan_prompt(state: PlannedState, scene: Scene, withheld: Mapping[str, str]) -> str:
    """Renders what the planner is asked: the request of the turn, the tools, and the language.

    Args:
        withheld: what it may only refer to: names, and what each stands for.
    """
    inputs = state.inputs
    tools = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": json.dumps(from_struct(tool.input_schema), sort_keys=True, ensure_ascii=False),
        }
        for tool in state.tools
    ]
    request = render_prompt(inputs.prompts, inputs.prompt_file, scene)
    return render(inputs.prompts, PLAN_FILE, request=request, tools=tools, withheld=withheld)


def ask_for_plan(state: PlannedState) -> None:
    """Asks the planner, who has the whole conversation so far before it."""
    state.out.append(_ask(state, journal_pb2.CALL_KIND_PLAN, state.messages, (), place=state.place))


def refuse_plan(state: PlannedState, answer: str, refused: PlanNotTaken) -> None:
    """Tells the planner why its answer was no plan."""
    where = f" at `{refused.place}`" if refused.place else ""
    sentence = f"That is no plan: {refused.reason}{where}. Write the whole plan again, as JSON alone."
    state.messages.append(message_of(content_pb2.MESSAGE_ROLE_ASSISTANT, answer, state.plan_label))
    state.messages.append(message_of(content_pb2.MESSAGE_ROLE_USER, sentence, state.plan_label))


def show_for_replan(state: PlannedState, written: Json, known: Sequence[str], reason: str) -> None:
    """Shows the planner what its plan asked to see; the rest of the plan is to be written."""
    shown = {name: text_in(value.data) for name, value in sorted(state.shown.items())}
    prompt = render(state.inputs.prompts, REPLAN_FILE, shown=shown, known=known, reason=reason)
    label = state.plan_label
    for value in state.shown.values():
        label = label.joined(value.label).joined(value.choice)
    state.messages.append(message_of(content_pb2.MESSAGE_ROLE_ASSISTANT, text_in(written), state.plan_label))
    state.messages.append(message_of(content_pb2.MESSAGE_ROLE_USER, prompt, label))


def ask_to_extract(state: PlannedState, step: Extract, reading: Filled) -> None:
    """Has a model without tools read typed fields out of texts."""
    properties: dict[str, Json] = {name: kind.schema for name, kind in step.fields.items()}
    schema: dict[str, Json] = {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }
    texts = _texts(reading)
    prompt = render(state.inputs.prompts, EXTRACT_FILE, texts=texts, schema=text_in(schema))
    _ask_reader(state, journal_pb2.CALL_KIND_EXTRACT, prompt, reading)


def ask_to_choose(state: PlannedState, step: Choose, options: Sequence[str], reading: Filled) -> None:
    """Has a model without tools pick one of a list."""
    prompt = render(state.inputs.prompts, CHOOSE_FILE, texts=_texts(reading), options=options, by=step.by)
    _ask_reader(state, journal_pb2.CALL_KIND_CHOOSE, prompt, reading)


def plan_in(generation: generation_pb2.Generation) -> Json:
    """Reads a plan as it was written. Raises: PlanNotTaken."""
    text = text_of(generation.parts)
    if len(text) > MAX_PLAN_CHARACTERS:
        raise PlanNotTaken("PLAN_TOO_LONG")
    if generation.stop_reason == generation_pb2.STOP_REASON_LENGTH:
        raise PlanNotTaken("PLAN_CUT_SHORT")
    try:
        written = from_value(to_value(json_in(text)))
        canonical(written)
    except (ValueError, RecursionError, ValueTooLarge, NotJson, PlanStopped):
        raise PlanNotTaken("PLAN_NOT_JSON") from None
    return written


def answer_in(generation: generation_pb2.Generation, place: str) -> Json:
    """Reads what a model without tools answered. Raises: PlanStopped."""
    try:
        return from_value(to_value(json_in(text_of(generation.parts))))
    except (ValueError, RecursionError, ValueTooLarge, NotJson) as cause:
        raise PlanStopped("ANSWER_NOT_JSON", f"the model that reads for {place!r} did not answer with JSON") from cause


def result_in(text: str) -> Json:
    """Reads what a tool answered: a list or an object of JSON as what it is, anything else as text."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return from_value(to_value(json_in(text)))
    except (ValueError, RecursionError, ValueTooLarge, NotJson):
        return text


def is_untrusted(label: Label) -> bool:
    """Says whether something from outside is in it."""
    return label.integrity == Integrity.UNTRUSTED


def origin_of(argument: str, one: Filled) -> journal_pb2.ArgumentOrigin:
    """Says where an argument came from."""
    return journal_pb2.ArgumentOrigin(
        argument=argument,
        references=one.references,
        label=label_to_proto(one.label),
        choice_label=label_to_proto(one.choice),
        verbatim=one.verbatim,
    )


def placed(
    state: PlannedState, call: MakeCall, arguments: Sequence[journal_pb2.ArgumentOrigin], place: str
) -> MakeCall:
    """Says of a call where it stands in the plan."""
    call.origin = Origin(place=place, choice_label=label_to_proto(state.choice), arguments=tuple(arguments))
    return call


def _ask_reader(state: PlannedState, kind: journal_pb2.CallKind.ValueType, prompt: str, reading: Filled) -> None:
    state.arguments = reading
    messages = [message_of(content_pb2.MESSAGE_ROLE_USER, prompt, OPERATOR.joined(reading.read).joined(state.choice))]
    state.out.append(_ask(state, kind, messages, (origin_of("reading", reading),), place=state.place))


def _ask(
    state: PlannedState,
    kind: journal_pb2.CallKind.ValueType,
    messages: Sequence[content_pb2.Message],
    arguments: Sequence[journal_pb2.ArgumentOrigin],
    *,
    place: str,
) -> MakeCall:
    agent = state.inputs.agent
    # A plan is no answer, so what the agent says of the length of its answers is the least that it may have.
    most = max(agent.max_output_tokens, _PLAN_TOKENS if kind == journal_pb2.CALL_KIND_PLAN else _READ_TOKENS)
    request = inference_service_pb2.StreamGenerateRequest(
        model=state.inputs.model or agent.model,
        messages=messages,
        max_output_tokens=most,
        temperature=agent.temperature if agent.HasField("temperature") else None,
    )
    return placed(state, state.call(kind, request), arguments, place)


def _texts(reading: Filled) -> list[str]:
    return [text_in(text) for text in cast("list[Json]", reading.data)]
