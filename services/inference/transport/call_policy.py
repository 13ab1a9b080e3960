"""What a caller wants done where a call can go more than one way: proto to domain, pure."""

from collections.abc import Mapping
from typing import Final, TypeVar

from comitia.inference.v1 import generation_pb2
from services.inference.domain.call_policy import USUAL, CacheUse, CallPolicy, MidStream, OnDisconnect, WorkClass
from services.meshkit.core.errors import Invalid

_MID_STREAM: Final = {
    generation_pb2.MID_STREAM_FAIL: MidStream.FAIL,
    generation_pb2.MID_STREAM_RESTART: MidStream.RESTART,
    generation_pb2.MID_STREAM_CONTINUE: MidStream.CONTINUE,
}
_ON_DISCONNECT: Final = {
    generation_pb2.ON_DISCONNECT_CANCEL: OnDisconnect.CANCEL,
    generation_pb2.ON_DISCONNECT_DRAIN: OnDisconnect.DRAIN,
    generation_pb2.ON_DISCONNECT_DETACH: OnDisconnect.DETACH,
}
_WORK_CLASS: Final = {
    generation_pb2.WORK_CLASS_INTERACTIVE: WorkClass.INTERACTIVE,
    generation_pb2.WORK_CLASS_BATCH: WorkClass.BATCH,
}
_CACHE: Final = {
    generation_pb2.CACHE_USE_DEFAULT: CacheUse.DEFAULT,
    generation_pb2.CACHE_USE_NO: CacheUse.NO,
    generation_pb2.CACHE_USE_REFRESH: CacheUse.REFRESH,
}
Number = TypeVar("Number", bound=int)
Value = TypeVar("Value")
#: Longest time after which a second one is asked, seconds.
_MOST_HEDGE: Final = 300.0
#: Longest `sticky_key`, bytes.
_MOST_KEY: Final = 255


def policy_of(policy: generation_pb2.CallPolicy, *, usual: CallPolicy = USUAL, field: str = "policy") -> CallPolicy:
    """Reads a policy.

    Args:
        usual: what holds where it says nothing.
        field: where it stands.
    Raises: Invalid, naming the field: a value that is none.
    """
    hedge = policy.hedge_after.seconds + policy.hedge_after.nanos / 1e9 if policy.HasField("hedge_after") else None
    if hedge is not None and not 0 < hedge <= _MOST_HEDGE:
        raise Invalid(f"{field}.hedge_after", f"must be above 0 and at most {_MOST_HEDGE:.0f} s")
    if len(policy.sticky_key.encode()) > _MOST_KEY:
        raise Invalid(f"{field}.sticky_key", f"must be at most {_MOST_KEY} bytes")
    return CallPolicy(
        mid_stream=_said(_MID_STREAM, policy.mid_stream, usual.mid_stream, f"{field}.mid_stream"),
        on_disconnect=_said(_ON_DISCONNECT, policy.on_disconnect, usual.on_disconnect, f"{field}.on_disconnect"),
        work_class=_said(_WORK_CLASS, policy.work_class, usual.work_class, f"{field}.work_class"),
        hedge_seconds=usual.hedge_seconds if hedge is None else hedge,
        cache=_said(_CACHE, policy.cache, usual.cache, f"{field}.cache"),
        sticky_key=policy.sticky_key,
    )


def policy_to_proto(policy: CallPolicy) -> generation_pb2.CallPolicy:
    """Writes a policy."""
    written = generation_pb2.CallPolicy(
        mid_stream=_written(_MID_STREAM, policy.mid_stream),
        on_disconnect=_written(_ON_DISCONNECT, policy.on_disconnect),
        work_class=_written(_WORK_CLASS, policy.work_class),
        cache=_written(_CACHE, policy.cache),
    )
    if policy.hedge_seconds is not None:
        written.hedge_after.FromMicroseconds(round(policy.hedge_seconds * 1_000_000))
    return written


def _said(values: Mapping[Number, Value], number: Number, usual: Value, field: str) -> Value:
    if number == 0:
        return usual
    if number not in values:
        raise Invalid(field, "is not known")
    return values[number]


def _written(values: Mapping[Number, Value], value: Value) -> Number:
    return next(number for number, one in values.items() if one is value)
