"""What is to be done where a call can go more than one way."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class MidStream(StrEnum):
    """What becomes of an answer that breaks off after text was shown."""

    FAIL = "fail"
    #: Another deployment answers from the beginning; what was shown is void.
    RESTART = "restart"
    #: Another deployment continues the text; where it cannot, the call fails.
    CONTINUE = "continue"


class OnDisconnect(StrEnum):
    """What becomes of a call that nobody follows any longer."""

    CANCEL = "cancel"
    #: The answer is read to its end, so that its usage is known.
    DRAIN = "drain"
    #: The call goes on and is recorded.
    DETACH = "detach"


class WorkClass(StrEnum):
    """Whether somebody waits for an answer."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class CacheUse(StrEnum):
    """Whether an answer may be one that was kept."""

    #: As the route says.
    DEFAULT = "default"
    #: A kept one is not given, and this one is not kept.
    NO = "no"
    #: A kept one is not given; this one takes its place.
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """What is to be done where a call can go more than one way. No part of a call's identity."""

    mid_stream: MidStream = MidStream.RESTART
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    work_class: WorkClass = WorkClass.INTERACTIVE
    #: Time without a first byte after which a second deployment is asked beside the first; None: never.
    hedge_seconds: float | None = None
    cache: CacheUse = CacheUse.DEFAULT
    #: What a route and its rollout keep on one side; empty: the run.
    sticky_key: str = ""


#: The policy of a call that says nothing.
USUAL: Final = CallPolicy()
