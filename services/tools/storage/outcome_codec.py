"""Outcomes of calls as bytes, before they are sealed. A version stands first, so that old rows stay readable."""

from typing import Final

import msgspec

from services.meshkit.content import Confidentiality, Integrity, Label, Part, TextPart, text_part
from services.meshkit.core.errors import Internal
from services.tools.domain.invocation import Blocked, Invocation


class _Text(msgspec.Struct, array_like=True):
    text: str
    integrity: int
    confidentiality: int
    sources: list[str]


class _Invocation(msgspec.Struct, tag="invocation_v1"):
    parts: list[_Text]
    failed: bool
    tool: str
    hold_id: str
    cost_nano_usd: int
    verdict_ids: list[str]
    cached: bool
    elapsed_us: int
    bundle_digest: str


class _Blocked(msgspec.Struct, tag="blocked_v1"):
    verdict_id: str
    stage: str
    rules: list[str]
    bundle: str


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Invocation | _Blocked)


def encode_outcome(outcome: Invocation | Blocked) -> bytes:
    """Writes an outcome."""
    if isinstance(outcome, Blocked):
        return _ENCODER.encode(_Blocked(outcome.verdict_id, outcome.stage, list(outcome.rules), outcome.bundle))
    return _ENCODER.encode(
        _Invocation(
            parts=[_text_of(part) for part in outcome.parts],
            failed=outcome.failed,
            tool=outcome.tool,
            hold_id=outcome.hold_id,
            cost_nano_usd=outcome.cost_nano_usd,
            verdict_ids=list(outcome.verdict_ids),
            cached=outcome.cached,
            elapsed_us=outcome.elapsed_us,
            bundle_digest=outcome.bundle_digest,
        )
    )


def decode_outcome(data: bytes) -> Invocation | Blocked:
    """Reads what `encode_outcome` wrote."""
    try:
        row = _DECODER.decode(data)
    except msgspec.MsgspecError as cause:
        raise Internal("a recorded outcome cannot be read; its writer was newer or broken") from cause
    if isinstance(row, _Blocked):
        return Blocked(verdict_id=row.verdict_id, stage=row.stage, rules=tuple(row.rules), bundle=row.bundle)
    return Invocation(
        parts=tuple(_part_of(text) for text in row.parts),
        failed=row.failed,
        tool=row.tool,
        hold_id=row.hold_id,
        cost_nano_usd=row.cost_nano_usd,
        verdict_ids=tuple(row.verdict_ids),
        cached=row.cached,
        elapsed_us=row.elapsed_us,
        bundle_digest=row.bundle_digest,
    )


def _text_of(part: Part) -> _Text:
    if not isinstance(part.content, TextPart):
        raise Internal("tools answer with text only", part=type(part.content).__name__)
    label = part.label
    return _Text(part.content.text, int(label.integrity), int(label.confidentiality), sorted(label.sources))


def _part_of(row: _Text) -> Part:
    label = Label(
        integrity=Integrity(row.integrity),
        confidentiality=Confidentiality(row.confidentiality),
        sources=frozenset(row.sources),
    )
    return text_part(row.text, label)
