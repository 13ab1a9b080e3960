"""The order in which a weighted route asks its members."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from services.inference.domain.route import RouteMember

_RANGE: Final = 2**64


def weighted(route: str, members: Sequence[RouteMember], unit: bytes) -> tuple[RouteMember, ...]:
    """Gives the members: the one that a unit falls to, then the others, heaviest first.

    The choice is a hash of route and unit, so a run stays with its model, on every replica, while the weights stay.
    Members without weight are asked only when the others fail.
    """
    total = sum(one.weight_permille for one in members)
    rest = sorted(members, key=lambda one: -one.weight_permille)
    if total == 0:
        return tuple(rest)
    place = int.from_bytes(sha256(route.encode() + b"\0" + unit).digest()[:8]) * total
    for one in members:
        place -= one.weight_permille * _RANGE
        if place < 0:
            return (one, *(other for other in rest if other is not one))
    return tuple(rest)
