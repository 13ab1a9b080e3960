"""What a caller wants done where a call can go more than one way: proto to domain, pure."""

from typing import Final

from comitia.inference.v1 import generation_pb2
from services.inference.domain.call_policy import USUAL, CallPolicy, MidStream, OnDisconnect
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
#: What nothing obeys yet: refused rather than passed over.
_UNBUILT: Final = ("work_class", "hedge_after", "cache", "sticky_key")


def policy_of(policy: generation_pb2.CallPolicy) -> CallPolicy:
    """Reads a policy.

    Raises: Invalid, naming the field: a value that is none, or one that is not taken yet.
    """
    for descriptor, _ in policy.ListFields():
        if descriptor.name in _UNBUILT:
            raise Invalid(f"policy.{descriptor.name}", "is not taken yet")
    if policy.mid_stream not in _MID_STREAM:
        raise Invalid("policy.mid_stream", "is not known")
    if policy.on_disconnect not in _ON_DISCONNECT:
        raise Invalid("policy.on_disconnect", "is not known")
    return CallPolicy(mid_stream=_MID_STREAM[policy.mid_stream], on_disconnect=_ON_DISCONNECT[policy.on_disconnect])
