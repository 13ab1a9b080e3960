"""What went in and what came out, whatever classes it is billed in."""

from comitia.common.v1.usage_pb2 import Usage
from comitia_sdk.cli.tokens import in_and_out, tokens_in, tokens_out

ALL = Usage(
    input_tokens=1,
    cache_read_tokens=10,
    cache_write_5m_tokens=100,
    cache_write_1h_tokens=1_000,
    output_tokens=10_000,
    reasoning_tokens=100_000,
    audio_in_tokens=1_000_000,
    audio_out_tokens=10_000_000,
    image_tokens=100_000_000,
)


def test_every_class_counts_once_in_or_out() -> None:
    assert len(Usage.DESCRIPTOR.fields) == len(ALL.ListFields()), "a new class: say in `tokens.py` where it belongs"
    assert tokens_in(ALL) == 101_001_111
    assert tokens_out(ALL) == 10_110_000
    assert in_and_out(ALL) == "101001111 in, 10110000 out"
