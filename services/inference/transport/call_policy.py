"""What a caller wants done where a call can go more than one way: proto to domain, pure."""

from typing import Final

from comitia.inference.v1 import generation_pb2
from services.inference.domain.call_policy import USUAL, CacheUse, CallPolicy, MidStream, OnDisconnect, WorkClass
from services.meshkit.core.errors import Invalid

_MID_STREAM: Final = {
    generation_pb2.MID_STREAM_UNSPECIFIED: USUAL.mid_stream,
    generation_pb2.MID_STREAM_FAIL: MidStream.FAIL,
    generation_pb2.MID_STREAM_RESTART: MidStream.RESTART,
    generation_pb2.MID_STREAM_CONTINUE: MidStream.CONTINUE,
}
_ON_DISCONNECT: Final = {
    generation_pb2.ON_DISCONNECT_UNSPECIFIED: USUAL.on_disconnect,
    generation_pb2.ON_DISCONNECT_CANCEL: OnDisconnect.CANCEL,
    generation_pb2.ON_DISCONNECT_DRAIN: OnDisconnect.DRAIN,
    generation_pb2.ON_DISCONNECT_DETACH: OnDisconnect.DETACH,
}
_WORK_CLASS: Final = {
    generation_pb2.WORK_CLASS_UNSPECIFIED: USUAL.work_class,
    generation_pb2.WORK_CLASS_INTERACTIVE: WorkClass.INTERACTIVE,
    generation_pb2.WORK_CLASS_BATCH: WorkClass.BATCH,
}
_CACHE: Final = {
    generation_pb2.CACHE_USE_UNSPECIFIED: USUAL.cache,
    generation_pb2.CACHE_USE_DEFAULT: CacheUse.DEFAULT,
    generation_pb2.CACHE_USE_NO: CacheUse.NO,
    generation_pb2.CACHE_USE_REFRESH: CacheUse.REFRESH,
}
#: Longest time after which a second one is asked, seconds.
_MOST_HEDGE: Final = 300.0
#: Longest `sticky_key`, bytes.
_MOST_KEY: Final = 255


def policy_of(policy: generation_pb2.CallPolicy) -> CallPolicy:
    """Reads a policy.

    Raises: Invalid, naming the field: a value that is none.
    """
    hedge = policy.hedge_after.seconds + policy.hedge_after.nanos / 1e9 if policy.HasField("hedge_after") else None
    if hedge is not None and not 0 < hedge <= _MOST_HEDGE:
        raise Invalid("policy.hedge_after", f"must be above 0 and at most {_MOST_HEDGE:.0f} s")
    if policy.mid_stream not in _MID_STREAM:
        raise Invalid("policy.mid_stream", "is not known")
    if policy.on_disconnect not in _ON_DISCONNECT:
        raise Invalid("policy.on_disconnect", "is not known")
    if policy.work_class not in _WORK_CLASS:
        raise Invalid("policy.work_class", "is not known")
    if policy.cache not in _CACHE:
        raise Invalid("policy.cache", "is not known")
    if len(policy.sticky_key.encode()) > _MOST_KEY:
        raise Invalid("policy.sticky_key", f"must be at most {_MOST_KEY} bytes")
    return CallPolicy(
        mid_stream=_MID_STREAM[policy.mid_stream],
        on_disconnect=_ON_DISCONNECT[policy.on_disconnect],
        work_class=_WORK_CLASS[policy.work_class],
        hedge_seconds=hedge,
        cache=_CACHE[policy.cache],
        sticky_key=policy.sticky_key,
    )
