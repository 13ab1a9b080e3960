"""Recorded answers of releases before this one are read, and theirs of ours."""

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome
from services.meshkit.content import Usage, text_part
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
