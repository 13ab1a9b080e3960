"""How many calls may be in progress at one server, and how much of it one tenant may have.

A tenant may have up to twice as many calls in progress as there are seats free. So one alone gets two thirds of a
server, two get two fifths each, and there is always room for one more tenant: nobody has to be known in advance, and
nothing is left idle while nobody else comes. (The rule is that of dynamic thresholds in the shared memory of switches:
Choudhury and Hahne, 1998.)
"""

from collections.abc import Callable
from typing import Final

from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.grpc.guard import Guard
from services.meshkit.grpc.limits import TooManyInProgress
from services.meshkit.telemetry import metrics

#: Calls per free seat that one tenant may have.
_PER_FREE_SEAT: Final = 2
#: An RPC that may take longer than this is a stream that somebody watches, not work, seconds.
LONG_SECONDS: Final = 600
#: Part of a server that such streams may take: one in so many seats.
_STREAM_PART: Final = 2

#: None stands for all callers without an identity.
_Who = TenantId | None


class Seats:
    """The seats of one kind, and who has them.

    Bounded: a tenant is kept while it has a call in progress, and no longer.
    """

    def __init__(self, most: int, *, what: str, kind: str, service: str) -> None:
        self.most = most
        self.what = what
        self.taken = 0
        self._by_tenant: dict[_Who, int] = {}
        self._refused = metrics.SEATS_REFUSED.labels(service, kind)
        metrics.SEATS_TAKEN.labels(service, kind).set_function(lambda: self.taken)

    def enter(self, who: _Who, *, outside: bool) -> None:
        """Takes a seat. Raises: TooManyInProgress."""
        mine = self._by_tenant.get(who, 0)
        share = _PER_FREE_SEAT * (self.most - self.taken)
        if outside and mine >= share:
            raise self.refusal(what=self.what, most=max(mine, 0))
        self._by_tenant[who] = mine + 1
        self.taken += 1

    def refusal(self, *, what: str, most: int) -> TooManyInProgress:
        """Counts and gives the refusal of a tenant that has its share."""
        self._refused.inc()
        return TooManyInProgress(what=what, most=most)

    def leave(self, who: _Who) -> None:
        """Gives a seat back."""
        self.taken -= 1
        left = self._by_tenant[who] - 1
        if left:
            self._by_tenant[who] = left
        else:
            del self._by_tenant[who]


class SeatGate:
    """The seats of one server. Calls of neighbours take seats too, and are never refused one here."""

    def __init__(self, most: int, *, service: str) -> None:
        self._service = service
        self.calls = Seats(most, what="calls", kind="call", service=service)
        self.streams = Seats(max(1, most // _STREAM_PART), what="streams", kind="stream", service=service)

    def route(self, guard: Guard) -> "RouteSeats":
        """Gives the seats of an RPC."""
        return RouteSeats(self.streams if guard.max_seconds > LONG_SECONDS else self.calls, guard)


class RouteSeats:
    """The seats that the calls of one RPC take."""

    def __init__(self, seats: Seats, guard: Guard) -> None:
        self._seats = seats
        self._most = guard.per_tenant_in_progress
        self._of_route: dict[_Who, int] = {}

    def enter(self, principal: Principal | None, *, outside: bool) -> Callable[[], None]:
        """See `RouteLimits.enter`."""
        who = None if principal is None else principal.tenant
        if self._most:
            mine = self._of_route.get(who, 0)
            if outside and mine >= self._most:
                raise self._seats.refusal(what="such calls", most=self._most)
        self._seats.enter(who, outside=outside)
        if not self._most:
            return lambda: self._seats.leave(who)
        self._of_route[who] = self._of_route.get(who, 0) + 1
        return lambda: self._leave(who)

    def _leave(self, who: _Who) -> None:
        self._seats.leave(who)
        left = self._of_route[who] - 1
        if left:
            self._of_route[who] = left
        else:
            del self._of_route[who]
