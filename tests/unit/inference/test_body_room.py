"""Long bodies share a room, of which a tenant has half at most."""

from uuid import UUID

import pytest

from services.inference.domain.errors import DoorsFull
from services.inference.transport.doors.body_room import SHORT_BODY, BodyRoom
from services.meshkit.core.identity import TenantId

ONE, TWO, THREE = (TenantId(UUID(int=number)) for number in (1, 2, 3))
LONG = 10 * SHORT_BODY


def test_a_tenant_has_half_of_the_room_at_most() -> None:
    room = BodyRoom(4 * LONG)
    with room.taken(ONE, LONG), room.taken(ONE, LONG):
        with pytest.raises(DoorsFull), room.taken(ONE, LONG):
            pass
        with room.taken(TWO, LONG):
            pass
    assert room.taken_bytes == 0


def test_all_tenants_together_have_no_more_than_the_room() -> None:
    room = BodyRoom(2 * LONG)
    with room.taken(ONE, LONG), room.taken(TWO, LONG), pytest.raises(DoorsFull) as full, room.taken(THREE, LONG):
        pass
    assert full.value.retry_after is not None
    assert room.taken_bytes == 0


def test_short_bodies_come_in_while_the_room_is_full() -> None:
    room = BodyRoom(2 * LONG)
    with room.taken(ONE, LONG), room.taken(TWO, LONG), room.taken(ONE, SHORT_BODY):
        assert room.taken_bytes == 2 * LONG


def test_what_fails_leaves_its_room() -> None:
    room = BodyRoom(2 * LONG)
    with pytest.raises(ZeroDivisionError), room.taken(ONE, LONG):
        raise ZeroDivisionError
    assert room.taken_bytes == 0
