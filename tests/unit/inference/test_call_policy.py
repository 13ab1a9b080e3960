"""What a caller may say about how a call goes: read, or refused by name."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.inference.v1 import generation_pb2
from services.inference.domain.call_policy import USUAL, CacheUse, CallPolicy, MidStream, OnDisconnect, WorkClass
from services.inference.transport.call_policy import policy_of, policy_to_proto
from services.meshkit.core.errors import Invalid


def test_who_says_nothing_gets_what_is_usual() -> None:
    assert policy_of(generation_pb2.CallPolicy()) == USUAL
    assert (USUAL.mid_stream, USUAL.on_disconnect) == (MidStream.RESTART, OnDisconnect.CANCEL)


def test_what_is_said_is_read() -> None:
    said = generation_pb2.CallPolicy(
        mid_stream=generation_pb2.MID_STREAM_CONTINUE,
        on_disconnect=generation_pb2.ON_DISCONNECT_DRAIN,
        work_class=generation_pb2.WORK_CLASS_BATCH,
        cache=generation_pb2.CACHE_USE_REFRESH,
        hedge_after=Duration(seconds=1, nanos=500_000_000),
        sticky_key="reader-7",
    )
    assert policy_of(said) == CallPolicy(
        mid_stream=MidStream.CONTINUE,
        on_disconnect=OnDisconnect.DRAIN,
        work_class=WorkClass.BATCH,
        cache=CacheUse.REFRESH,
        hedge_seconds=1.5,
        sticky_key="reader-7",
    )


@pytest.mark.parametrize(
    "said",
    [
        {"work_class": 99},
        {"hedge_after": {"seconds": 301}},
        {"hedge_after": {}},
        {"cache": 99},
        {"sticky_key": "ü" * 128},
        {"mid_stream": 99},
        {"on_disconnect": 99},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_nothing_obeys_is_refused_by_name(said: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        policy_of(generation_pb2.CallPolicy(**said))
    assert refused.value.field == f"policy.{next(iter(said))}"


def test_what_a_route_says_of_a_second_model_holds_for_calls_that_do_not() -> None:
    usual = policy_of(generation_pb2.CallPolicy(hedge_after=Duration(seconds=2)), field="route.policy")
    assert policy_of(policy_to_proto(usual)) == usual
    assert policy_of(generation_pb2.CallPolicy(), usual=usual).hedge_seconds == 2.0
