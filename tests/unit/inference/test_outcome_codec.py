"""Recorded answers of releases before this one are read, and theirs of ours."""

from dataclasses import replace

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome
from services.meshkit.content import Part, ToolCallPart, Usage, text_part
from tests.support.inference import USER

PLAIN = Answer(
    parts=(text_part("Yes.", USER),),
    stop_reason=StopReason.STOP,
    usage=Usage(input=1, output=2),
    provider="openai",
    model="gpt-test",
    hold_id="hold_1",
    cost_nano_usd=0,
    verdict_ids=("verdict_1",),
    bundle_digest="ab",
    rules=(),
    provider_us=3,
)
#: What rows had before attempts were kept.
BEFORE = {
    *("type", "parts", "stop_reason", "usage", "usage_known", "provider", "model", "hold_id", "verdict_ids"),
    *("bundle_digest", "rules", "provider_us", "stub", "failed_attempts"),
}


def test_an_answer_that_says_nothing_new_is_written_as_it_always_was() -> None:
    written = encode_outcome(PLAIN)
    assert msgspec.msgpack.decode(written).keys() == BEFORE
    assert decode_outcome(written) == PLAIN


def test_a_tool_call_is_kept_with_numbers_that_no_64_bits_hold() -> None:
    arguments = {"id": 123456789012345678901234, "deep": [{"less": -(2**70)}], "plain": 1.5}
    asked = Part(ToolCallPart(tool_call_id="c1", name="search", arguments=arguments), USER)
    answer = replace(PLAIN, parts=(asked,))
    assert decode_outcome(encode_outcome(answer)) == answer


def test_arguments_of_a_tool_call_are_read_as_releases_before_wrote_them() -> None:
    row = msgspec.msgpack.decode(encode_outcome(PLAIN))
    row["parts"] = [[None, ["c1", "search", {"q": [1, None]}], 3, 2, []]]
    decoded = decode_outcome(msgspec.msgpack.encode(row))
    assert isinstance(decoded, Answer)
    assert decoded.parts[0].content == ToolCallPart(tool_call_id="c1", name="search", arguments={"q": [1, None]})
