"""Who gets the next seat."""

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.call_policy import WorkClass
from services.inference.domain.fairness.fair_queue import LEAST, MOST, FairQueue, Standing, Ticket, weight_of
from services.meshkit.content import Usage

INTERACTIVE, BATCH = WorkClass.INTERACTIVE, WorkClass.BATCH


def a_queue(*, seats: int = 1, most_waiting: int = 10_000, each: int = 10_000) -> FairQueue:
    return FairQueue(seats=seats, most_waiting=most_waiting, most_waiting_each=each)


@dataclass
class Room:
    """A queue, and who sits and waits."""

    queue: FairQueue
    #: In the order in which they got a seat.
    seated: deque[Ticket] = field(default_factory=deque[Ticket])
    given: list[Ticket] = field(default_factory=list[Ticket])
    waiting: list[Ticket] = field(default_factory=list[Ticket])

    def enter(self, tenant: str, *, work_class: WorkClass = INTERACTIVE, weight: int = 2_000) -> Ticket:
        ticket, turned_away = self.queue.enter(tenant, work_class, weight)
        if ticket.standing is Standing.WAITING:
            self.waiting.append(ticket)
        elif ticket.standing is Standing.SEATED:
            self._seat([ticket])
        for one in turned_away:
            self.waiting.remove(one)
        return ticket

    def leave(self, ticket: Ticket | None = None, *, weight: int | None = None) -> list[Ticket]:
        ticket = ticket or self.seated[0]
        self.seated.remove(ticket)
        return self._seat(self.queue.leave(ticket, ticket.weight if weight is None else weight))

    def give_up(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        self._seat(self.queue.give_up(ticket))

    def next(self) -> Ticket:
        (got,) = self.leave()
        return got

    def _seat(self, tickets: list[Ticket]) -> list[Ticket]:
        for one in tickets:
            if one in self.waiting:
                self.waiting.remove(one)
        self.seated.extend(tickets)
        self.given.extend(tickets)
        return tickets


def test_a_free_seat_is_taken_at_once() -> None:
    room = Room(a_queue(seats=2))
    assert [room.enter(one).standing for one in ("a", "b", "c")] == [Standing.SEATED, Standing.SEATED, Standing.WAITING]
    assert (room.queue.seated, room.queue.waiting) == (2, 1)


def test_a_tenant_that_floods_keeps_another_waiting_for_one_seat() -> None:
    room = Room(a_queue())
    for _ in range(1_000):
        room.enter("flood")
    quiet = room.enter("quiet")
    assert room.next() is quiet


def test_calls_of_one_tenant_go_in_the_order_in_which_they_came() -> None:
    room = Room(a_queue())
    came = [room.enter("a", weight=weight) for weight in (9_000, 1, 5_000)]
    assert [room.next(), room.next()] == came[1:]


def test_tenants_get_equal_tokens_and_not_equal_calls() -> None:
    room = Room(a_queue())
    for _ in range(400):
        room.enter("short", weight=2_000)
        room.enter("long", weight=8_000)
    for _ in range(300):
        room.next()
    got = Counter(one.tenant for one in room.given)
    assert got["short"] / got["long"] == pytest.approx(4.0, rel=0.05)


def test_what_was_used_counts_and_not_what_was_asked_for() -> None:
    room = Room(a_queue(seats=4))
    for _ in range(600):
        room.enter("careful", weight=8_000)
        room.enter("boastful", weight=8_000)
    for _ in range(500):
        ticket = room.seated[0]
        room.leave(ticket, weight=2_000 if ticket.tenant == "boastful" else 8_000)
    got = Counter(one.tenant for one in room.given)
    assert got["boastful"] / got["careful"] == pytest.approx(4.0, rel=0.1)


def test_a_call_heavier_than_a_step_is_paid_for_in_several() -> None:
    room = Room(a_queue())
    room.enter("small", weight=4 * LEAST)
    room.enter("huge", weight=4 * MOST)
    for _ in range(300):
        room.enter("huge", weight=4 * LEAST)
        room.enter("small", weight=4 * LEAST)
    for _ in range(200):
        room.next()
    got = Counter(one.tenant for one in room.given)
    tokens = {"small": got["small"] * 4 * LEAST, "huge": 4 * MOST + (got["huge"] - 1) * 4 * LEAST}
    assert tokens["small"] == pytest.approx(tokens["huge"], abs=MOST)


def test_who_was_away_saved_nothing_up() -> None:
    room = Room(a_queue())
    room.enter("late")
    room.enter("busy")
    for _ in range(200):
        room.enter("busy")
    for _ in range(100):
        room.next()
    for _ in range(20):
        room.enter("late")
    before = len(room.given)
    for _ in range(20):
        room.next()
    got = Counter(one.tenant for one in room.given[before:])
    assert abs(got["late"] - got["busy"]) <= 2


def test_who_was_alone_owes_nothing_for_it() -> None:
    room = Room(a_queue(seats=1))
    for _ in range(50):
        room.enter("first", weight=100 * MOST)
        room.leave()
    for _ in range(20):
        room.enter("first")
        room.enter("second")
    for _ in range(30):
        room.next()
    got = Counter(one.tenant for one in room.given[50:])
    assert abs(got["first"] - got["second"]) <= 2


def test_batch_work_gets_one_of_eleven_seats_that_both_wait_for() -> None:
    room = Room(a_queue(seats=4))
    for _ in range(300):
        room.enter("a", work_class=BATCH)
        room.enter("a")
    before = len(room.given)
    for _ in range(220):
        room.leave()
    got = Counter(one.work_class for one in room.given[before:])
    assert got[INTERACTIVE] == pytest.approx(10 * got[BATCH], rel=0.06)


@pytest.mark.parametrize(("seats", "batch"), [(1, 1), (2, 1), (4, 3), (16, 12)])
def test_batch_work_leaves_a_quarter_of_the_seats_free(seats: int, batch: int) -> None:
    room = Room(a_queue(seats=seats))
    for _ in range(seats):
        room.enter("a", work_class=BATCH)
    assert room.queue.seated == batch
    if seats > 1:
        assert room.enter("b").standing is Standing.SEATED


def test_a_tenant_has_so_many_places_to_wait_and_no_more() -> None:
    room = Room(a_queue(each=2))
    room.enter("a")
    assert [room.enter("a").standing for _ in range(3)] == [Standing.WAITING, Standing.WAITING, Standing.TURNED_AWAY]
    assert room.enter("b").standing is Standing.WAITING


def test_in_a_full_queue_who_has_the_most_makes_room_for_who_has_fewer() -> None:
    room = Room(a_queue(most_waiting=4))
    flood = [room.enter("flood") for _ in range(5)]
    quiet = room.enter("quiet")
    assert (quiet.standing, flood[-1].standing) == (Standing.WAITING, Standing.TURNED_AWAY)
    assert room.enter("flood").standing is Standing.TURNED_AWAY
    assert room.queue.waiting == 4


def test_without_places_to_wait_one_call_too_many_is_turned_away() -> None:
    room = Room(a_queue(most_waiting=0))
    room.enter("a")
    assert room.enter("b").standing is Standing.TURNED_AWAY
    assert room.queue.waiting == 0


def test_what_a_model_writes_weighs_four_times() -> None:
    assert weight_of(Usage(input=100, cache_read=50, output=10, reasoning=5)) == 210


tenants = st.sampled_from("abcdef")
commands = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), tenants, st.sampled_from(WorkClass), st.integers(0, 10 * MOST)),
        st.tuples(st.just("leave"), st.integers(0, 10), st.integers(0, 10 * MOST), st.none()),
        st.tuples(st.just("give up"), st.integers(0, 10), st.none(), st.none()),
    ),
    max_size=120,
)


def play(room: Room, *steps: tuple[object, ...]) -> None:
    for kind, first, second, third in steps:
        if kind == "enter":
            room.enter(str(first), work_class=WorkClass(str(second)), weight=int(str(third)))
        elif kind == "leave" and room.seated:
            room.leave(room.seated[int(str(first)) % len(room.seated)], weight=int(str(second)))
        elif kind == "give up" and room.waiting:
            room.give_up(room.waiting[int(str(first)) % len(room.waiting)])


@given(seats=st.integers(1, 5), steps=commands)
def test_seats_are_never_overbooked_nor_left_free_while_somebody_may_have_one(
    seats: int, steps: list[tuple[object, ...]]
) -> None:
    room = Room(a_queue(seats=seats))
    for step in steps:
        play(room, step)
        assert room.queue.seated == len(room.seated) <= seats
        assert room.queue.waiting == len(room.waiting)
        if any(one.work_class is INTERACTIVE for one in room.waiting):
            assert room.queue.seated == seats
    while room.seated:
        room.leave()
    assert (room.queue.waiting, room.waiting) == (0, [])


@given(
    seats=st.integers(1, 4),
    steps=commands,
    work_class=st.sampled_from(WorkClass),
    others=st.integers(1, 5),
    weight=st.integers(0, 10 * MOST),
    used=st.lists(st.integers(0, 10 * MOST), min_size=1, max_size=8),
    data=st.data(),
)
def test_nobody_starves(
    seats: int,
    steps: list[tuple[object, ...]],
    work_class: WorkClass,
    others: int,
    weight: int,
    used: list[int],
    data: st.DataObject,
) -> None:
    """However others flood, with whatever weights: the head of a queue gets a seat within the stated bound."""
    room = Room(a_queue(seats=seats))
    play(room, *steps)
    for one in [one for one in room.waiting if one.tenant == "quiet"]:
        room.give_up(one)
    names = [f"other {n}" for n in range(others)]
    mine = room.enter("quiet", work_class=work_class, weight=weight)
    before = len(room.given)
    waiting_tenants = {one.tenant for one in room.waiting} | set(names) | {"quiet"}
    bound = len(waiting_tenants) * (1 + MOST // LEAST)
    turn = 0
    while mine.standing is Standing.WAITING:
        for name in names:
            if sum(one.tenant == name and one.work_class is work_class for one in room.waiting) < 2:
                room.enter(name, work_class=work_class, weight=used[turn % len(used)])
        turn += 1
        room.leave(weight=used[turn % len(used)])
        got = sum(one.work_class is work_class for one in room.given[before:])
        assert got <= bound
