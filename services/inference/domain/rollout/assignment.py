"""Which side of a rollout a unit is on."""

from hashlib import sha256
from typing import Final

from services.inference.domain.rollout.rollout import ALL, Rollout
from services.inference.domain.route import Arm

_RANGE: Final = 2**64


def arm_of(rollout: Rollout, unit: bytes) -> Arm:
    """Gives the side of a unit: the same on every replica and for as long as the share does not shrink.

    A unit is what must not change sides, such as a run. Its place on the line from 0 to 1 is a hash of rollout and
    unit, so nothing is kept, a growing share takes nobody back, and two rollouts divide the same units differently.
    """
    place = int.from_bytes(sha256(rollout.id.encode() + b"\0" + unit).digest()[:8])
    return Arm.CANARY if place * ALL < rollout.share_permille * _RANGE else Arm.STABLE
