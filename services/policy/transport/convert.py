"""Proto to domain and back, both ways; pure."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, cast

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.policy.v1 import policy_pb2 as pb
from comitia.policy.v1 import policy_service_pb2 as rpc
from services.meshkit.content import CallContext, Part, TextPart, ToolResultPart
from services.meshkit.content.proto import context_from_proto, parts_from_proto, parts_to_proto
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.permissions import permissions_of
from services.policy.domain.bundle import Bundle, NamedBundle, split_reference
from services.policy.domain.errors import BundleNotForCaller
from services.policy.domain.subject import Operation, Stage, Subject
from services.policy.domain.verdict import RuleResult, Severity, Verdict
from services.policy.domain.violation import Violation
from services.policy.usecases.create_bundle import CreateCommand
from services.policy.usecases.evaluate import Question
from services.policy.usecases.ports import ViolationFilter

_MOST_TEXT_BYTES: Final = 256 * 1024
_MOST_MEASURES: Final = 64
_MOST_NAME: Final = 200
_MOST_PATH: Final = 1024
#: The permission of those who may change the law.
_WRITES: Final = "policies.write"
_STAGES: Final = {int(stage): stage for stage in Stage}
_OPERATIONS: Final = {int(operation): operation for operation in Operation}
_SEVERITIES: Final = {int(severity): severity for severity in Severity}


# --- requests --------------------------------------------------------------------------------------------------------


def to_question(subject: pb.Subject, principal: Principal, *, traceparent: str = "", inside: bool = False) -> Question:
    """Reads what is to be judged.

    Args:
        inside: whether a service of the mesh asks.
    Raises: Invalid; BundleNotForCaller.
    """
    read = _subject(subject)
    bundle = _named_bundle(read, principal, inside=inside)
    return Question(tenant=principal.tenant, subject=read, bundle=bundle, traceparent=traceparent)


def to_create_command(request: rpc.CreateBundleRequest, principal: Principal) -> CreateCommand:
    """Reads a bundle that is to be stored. Raises: Invalid."""
    return CreateCommand(
        principal=principal,
        name=request.name,
        version=request.version,
        source=request.source,
        keep_inactive=request.keep_inactive,
    )


def to_reference(reference: str, *, versioned: bool = False) -> tuple[str, str]:
    """Reads `name@version`, or `name` where the version may be left out. Raises: Invalid."""
    name, version = split_reference(reference, field="bundle")
    if versioned and not version:
        raise Invalid("bundle", "must name the version too, as `name@version`")
    return name, version


def to_filter(run_id: str, *, rule: str = "", min_severity: int = 0) -> ViolationFilter:
    """Reads which violations are wanted. Raises: Invalid."""
    if run_id:
        to_uuid(run_id, "run", field="run_id")
    severity = _SEVERITIES.get(min_severity)
    if severity is None and min_severity != 0:
        raise Invalid("min_severity", "must be one of MINOR, MAJOR, SEVERE")
    return ViolationFilter(run_id=run_id, rule=_text(rule, "rule", most=63), min_severity=severity)


def to_after(sequence: int) -> int:
    """Reads the place to go on from. Raises: Invalid."""
    if sequence < 0:
        raise Invalid("after_sequence", "must be 0 (from the beginning) or a sequence that was seen")
    return sequence


def _subject(message: pb.Subject) -> Subject:
    stage = _STAGES.get(message.stage)
    if stage is None:
        raise Invalid("subject.stage", "must be one of BEFORE, DURING, AFTER")
    operation = _OPERATIONS.get(message.operation)
    if operation is None:
        raise Invalid("subject.operation", "must be one of GENERATE, INVOKE_TOOL, REMEMBER")
    return Subject(
        operation=operation,
        stage=stage,
        parts=_parts(message),
        measures=_measures(message.measures),
        context=_context(context_from_proto(message.context)),
        target=_text(message.target, "subject.target", most=_MOST_NAME),
    )


def _named_bundle(subject: Subject, principal: Principal, *, inside: bool) -> NamedBundle | None:
    """Reads by which bundle models of a fork are judged in place of the law."""
    context = subject.context
    if not context.bundle and not context.bundle_digest:
        return None
    if not inside or subject.operation is not Operation.GENERATE:
        raise Invalid("subject.context.bundle", "is for models of forks; leave it empty, the tenant's law judges")
    scopes = principal.scopes
    if _WRITES not in permissions_of(principal.roles) or (scopes is not None and _WRITES not in scopes):
        raise BundleNotForCaller
    name, version = split_reference(context.bundle, field="subject.context.bundle")
    return NamedBundle(name=name, version=version, digest=context.bundle_digest)


def _parts(message: pb.Subject) -> tuple[Part, ...]:
    try:
        parts = parts_from_proto(message.parts, field="subject.parts")
    except (json_format.Error, ValueError) as cause:
        raise Invalid("subject.parts", "holds a number that JSON does not know, such as NaN") from cause
    for index, part in enumerate(parts):
        if isinstance(part.content, TextPart | ToolResultPart) and _too_long(part.content.text):
            raise Invalid(f"subject.parts[{index}]", f"has more than {_MOST_TEXT_BYTES} bytes of text; use a blob")
    return parts


def _too_long(text: str) -> bool:
    return len(text) > _MOST_TEXT_BYTES or (
        len(text) * 4 > _MOST_TEXT_BYTES and not text.isascii() and len(text.encode()) > _MOST_TEXT_BYTES
    )


def _measures(measures: Mapping[str, float]) -> dict[str, float]:
    if len(measures) > _MOST_MEASURES:
        raise Invalid("subject.measures", f"must have at most {_MOST_MEASURES} entries")
    for name, value in measures.items():
        if not math.isfinite(value):
            raise Invalid(f"subject.measures[{name[:63]!r}]", "must be a finite number")
    return dict(measures)


def _context(context: CallContext) -> CallContext:
    call = context.call_id
    _text(call.run_id, "subject.context.call_id.run_id", most=_MOST_NAME)
    _text(call.path, "subject.context.call_id.path", most=_MOST_PATH)
    _text(context.agent_name, "subject.context.agent_name", most=_MOST_NAME)
    return context


def _text(text: str, field: str, *, most: int) -> str:
    if len(text) > most:
        raise Invalid(field, f"must have at most {most} characters")
    if "\x00" in text:
        raise Invalid(field, "must not hold the character NUL")
    return text


# --- answers ---------------------------------------------------------------------------------------------------------


def verdict_to_proto(verdict: Verdict) -> pb.Verdict:
    """Writes a verdict."""
    judgement = verdict.judgement
    return pb.Verdict(
        verdict_id=verdict.id,
        allowed=judgement.allowed,
        results=_results(judgement.results),
        parts=() if judgement.parts is None else parts_to_proto(judgement.parts),
        bundle_digest=verdict.bundle_digest,
        bundle=verdict.bundle,
    )


def _results(results: Iterable[RuleResult]) -> list[pb.RuleResult]:
    return [
        pb.RuleResult(
            rule=result.rule,
            action=cast(pb.Action.ValueType, 0 if result.action is None else result.action.value),
            severity=cast(pb.Severity.ValueType, result.severity.value),
            elapsed_us=result.elapsed_us,
            rationale=result.rationale,
        )
        for result in results
    ]


def bundle_to_proto(bundle: Bundle) -> pb.Bundle:
    """Writes a bundle."""
    return pb.Bundle(
        bundle_id=from_uuid("bundle", bundle.id),
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        source=bundle.source,
        rule_count=bundle.rule_count,
        active=bundle.active,
        create_time=None if bundle.created is None else _timestamp(bundle.created),
    )


def violation_to_proto(violation: Violation) -> pb.Violation:
    """Writes a violation."""
    return pb.Violation(
        violation_id=from_uuid("violation", violation.id),
        verdict_id=violation.verdict_id,
        rule=violation.rule,
        severity=cast(pb.Severity.ValueType, int(violation.severity)),
        action=cast(pb.Action.ValueType, int(violation.action)),
        stage=cast(pb.Stage.ValueType, int(violation.stage)),
        rationale=violation.rationale,
        run_id=violation.run_id,
        path=violation.path,
        agent_name=violation.agent_name,
        operation=cast(pb.Operation.ValueType, int(violation.operation)),
        create_time=_timestamp(violation.created),
        sequence=violation.sequence,
        bundle=violation.bundle,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
