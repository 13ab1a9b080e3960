"""Outcomes of calls as bytes, before they are sealed. A version stands first, so that old rows stay readable."""

from typing import Any, Final

import msgspec

from services.inference.domain.answer import Answer, AttemptNote, RouteChoice, StopReason
from services.inference.domain.call import Blocked, Outcome, Unjudged
from services.meshkit.content import Confidentiality, Integrity, Label, Part, TextPart, ToolCallPart, Usage
from services.meshkit.content.law import RuleOutcome
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Internal


class _Rule(msgspec.Struct, array_like=True):
    rule: str
    status: str
    elapsed_us: int
    stage: str


class _Call(msgspec.Struct, array_like=True):
    tool_call_id: str
    name: str
    # A JSON object, open by nature; written as JSON, which has numbers of any size. Rows written before hold it itself.
    arguments: bytes | dict[str, Any]


class _Part(msgspec.Struct, array_like=True):
    text: str | None
    call: _Call | None
    integrity: int
    confidentiality: int
    sources: list[str]


class _Attempt(msgspec.Struct, array_like=True):
    deployment: str
    version: int
    hold_id: str
    reason: str
    usage_known: bool
    provider_us: int


class _Choice(msgspec.Struct, array_like=True):
    route: str
    mode: str
    tier: str
    keeps_sla: bool | None


class _Answer(msgspec.Struct, tag="answer_v1", omit_defaults=True):
    parts: list[_Part]
    stop_reason: str
    usage: list[int]
    usage_known: bool
    provider: str
    model: str
    hold_id: str
    verdict_ids: list[str]
    bundle_digest: str
    rules: list[_Rule]
    provider_us: int
    stub: bool
    failed_attempts: list[str]
    # What rows written before do not have.
    attempts: list[_Attempt] = []
    deployment: str = ""
    deployment_version: int = 0
    lost_attempts: int = 0
    repairs: int = 0
    continued_by: str = ""
    first_byte_us: int = 0
    choice: _Choice | None = None


class _Blocked(msgspec.Struct, tag="blocked_v1"):
    verdict_id: str
    rules: list[str]
    bundle: str


class _Unjudged(msgspec.Struct, tag="unjudged_v1"):
    draft: _Answer
    target: str


_ARGUMENTS: Final = msgspec.json.Decoder(dict[str, Any])
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[_Answer | _Blocked | _Unjudged]] = msgspec.msgpack.Decoder(
    _Answer | _Blocked | _Unjudged
)


def encode_outcome(outcome: Outcome) -> bytes:
    """Writes an outcome. The price is no part of it: it is known later, and stands in a column."""
    match outcome:
        case Answer():
            return _ENCODER.encode(_answer_to_row(outcome))
        case Blocked():
            return _ENCODER.encode(_Blocked(outcome.verdict_id, list(outcome.rules), outcome.bundle))
        case Unjudged():
            return _ENCODER.encode(_Unjudged(_answer_to_row(outcome.draft), outcome.target))


def decode_outcome(data: bytes) -> Outcome:
    """Reads what `encode_outcome` wrote."""
    try:
        row = _DECODER.decode(data)
    except msgspec.MsgspecError as cause:
        raise Internal("a recorded outcome cannot be read; its writer was newer or broken") from cause
    match row:
        case _Answer():
            return _answer_from_row(row)
        case _Blocked():
            return Blocked(verdict_id=row.verdict_id, rules=tuple(row.rules), bundle=row.bundle)
        case _Unjudged():
            return Unjudged(draft=_answer_from_row(row.draft), target=row.target)


def _answer_to_row(answer: Answer) -> _Answer:
    return _Answer(
        parts=[_part_to_row(part) for part in answer.parts],
        stop_reason=answer.stop_reason,
        usage=usage_to_list(answer.usage),
        usage_known=answer.usage_known,
        provider=answer.provider,
        model=answer.model,
        hold_id=answer.hold_id,
        verdict_ids=list(answer.verdict_ids),
        bundle_digest=answer.bundle_digest,
        rules=[_Rule(rule.rule, rule.status, rule.elapsed_us, rule.stage) for rule in answer.rules],
        provider_us=answer.provider_us,
        stub=answer.stub,
        failed_attempts=list(answer.failed_attempts),
        attempts=[
            _Attempt(one.deployment, one.version, one.hold_id, one.reason, one.usage_known, one.provider_us)
            for one in answer.attempts
        ],
        deployment=answer.deployment,
        deployment_version=answer.deployment_version,
        lost_attempts=answer.lost_attempts,
        repairs=answer.repairs,
        continued_by=answer.continued_by,
        first_byte_us=answer.first_byte_us,
        choice=None if answer.choice is None else _choice_to_row(answer.choice),
    )


def _answer_from_row(row: _Answer) -> Answer:
    return Answer(
        parts=tuple(_part_from_row(part) for part in row.parts),
        stop_reason=StopReason(row.stop_reason),
        usage=usage_from_list(row.usage),
        usage_known=row.usage_known,
        provider=row.provider,
        model=row.model,
        hold_id=row.hold_id,
        cost_nano_usd=0,
        verdict_ids=tuple(row.verdict_ids),
        bundle_digest=row.bundle_digest,
        rules=tuple(
            RuleOutcome(rule=rule.rule, status=rule.status, elapsed_us=rule.elapsed_us, stage=rule.stage)
            for rule in row.rules
        ),
        provider_us=row.provider_us,
        stub=row.stub,
        failed_attempts=tuple(row.failed_attempts),
        attempts=tuple(
            AttemptNote(
                deployment=one.deployment,
                version=one.version,
                hold_id=one.hold_id,
                reason=one.reason,
                usage_known=one.usage_known,
                provider_us=one.provider_us,
            )
            for one in row.attempts
        ),
        deployment=row.deployment,
        deployment_version=row.deployment_version,
        lost_attempts=row.lost_attempts,
        repairs=row.repairs,
        continued_by=row.continued_by,
        first_byte_us=row.first_byte_us,
        choice=None if row.choice is None else _choice_from_row(row.choice),
    )


def _choice_to_row(choice: RouteChoice) -> _Choice:
    return _Choice(choice.route, choice.mode, choice.tier, choice.keeps_sla)


def _choice_from_row(row: _Choice) -> RouteChoice:
    return RouteChoice(route=row.route, mode=row.mode, tier=row.tier, keeps_sla=row.keeps_sla)


def usage_to_list(usage: Usage) -> list[int]:
    """Writes token counts in the order of `USAGE_CLASSES`."""
    return [int(getattr(usage, name)) for name in USAGE_CLASSES]


def usage_from_list(counts: list[int]) -> Usage:
    """Reads token counts; classes that are newer than the row count as zero."""
    return Usage(**dict(zip(USAGE_CLASSES, counts, strict=False)))


def _part_to_row(part: Part) -> _Part:
    label = (int(part.label.integrity), int(part.label.confidentiality), sorted(part.label.sources))
    match part.content:
        case TextPart(text):
            return _Part(text, None, *label)
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            return _Part(None, _Call(call, name, msgspec.json.encode(dict(arguments))), *label)
        case _:
            raise Internal("a model answers with text and tool calls only", part=type(part.content).__name__)


def _part_from_row(row: _Part) -> Part:
    label = Label(
        integrity=Integrity(row.integrity),
        confidentiality=Confidentiality(row.confidentiality),
        sources=frozenset(row.sources),
    )
    if row.call is not None:
        call = row.call
        written = call.arguments
        arguments = _ARGUMENTS.decode(written) if isinstance(written, bytes) else written
        return Part(ToolCallPart(tool_call_id=call.tool_call_id, name=call.name, arguments=arguments), label)
    return Part(TextPart(row.text or ""), label)
