"""Ids of sub-runs: made of the place where one is started, so that a replay names the same; they tell its depth."""

from hashlib import sha256
from typing import Final
from uuid import UUID

from services.meshkit.core.ids import from_uuid, to_uuid

#: Of UUIDs whose content is their maker's own business (RFC 9562). Those of other runs are of version 7.
_VERSION: Final = 8
_VARIANT: Final = 2
_VERSION_AT: Final = 76
_DEPTH_AT: Final = 72
_DEPTH_BITS: Final = 0xF
_VARIANT_AT: Final = 62
_TIME_AT: Final = 80


def sub_run_id(parent_run_id: str, place: str) -> str:
    """Names the run that a run starts at a place of its own.

    It begins with its parent's time, so that both lie in one part of the journal. Raises: Invalid: that is no run.
    """
    parent = to_uuid(parent_run_id, "run").int
    chance = int.from_bytes(sha256(f"{parent_run_id}/{place}".encode()).digest()[:16], "big")
    number = parent >> _TIME_AT << _TIME_AT | chance & ((1 << _DEPTH_AT) - 1) & ~(0x3 << _VARIANT_AT)
    depth = min(depth_of(parent_run_id) + 1, _DEPTH_BITS)
    number |= _VERSION << _VERSION_AT | depth << _DEPTH_AT | _VARIANT << _VARIANT_AT
    return from_uuid("run", UUID(int=number))


def depth_of(run_id: str) -> int:
    """Says how many runs a run lies below the one that somebody started, which is 0 deep. Raises: Invalid."""
    found = to_uuid(run_id, "run")
    return found.int >> _DEPTH_AT & _DEPTH_BITS if found.version == _VERSION else 0


def ids_of_tree(sub_run_id: str) -> tuple[UUID, UUID]:
    """Gives the lowest and the highest id that a run of the same tree can have.

    Trees of one tenant that began in the same millisecond have them in common. Raises: Invalid.
    """
    begun = to_uuid(sub_run_id, "run").int >> _TIME_AT << _TIME_AT | _VERSION << _VERSION_AT
    return UUID(int=begun), UUID(int=begun | (1 << _VERSION_AT) - 1)
