"""All limits of the calls of one server: how often they may begin, and how many may be in progress."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.meshkit.core.identity import Principal
from services.meshkit.grpc.client_address import Connection
from services.meshkit.grpc.guard import Guard
from services.meshkit.grpc.limits import Allowance
from services.meshkit.guard.concurrency import RouteSeats, SeatGate
from services.meshkit.guard.rate import RateGate, RouteRates


class CallLimits:
    """Implements `meshkit.grpc.limits.Limits`."""

    def __init__(self, rates: RateGate, seats: SeatGate) -> None:
        self._rates = rates
        self._seats = seats

    def route(self, method: str, guard: Guard) -> "RouteCallLimits":
        """See `Limits.route`."""
        return RouteCallLimits(self._rates.route(method, guard), self._seats.route(guard))


@dataclass(frozen=True, slots=True)
class RouteCallLimits:
    """The limits of one RPC."""

    _rates: RouteRates
    _seats: RouteSeats

    def count(self, principal: Principal | None, connection: Connection | None) -> Awaitable[Allowance | None]:
        """See `RouteLimits.count`."""
        return self._rates.count(principal, connection)

    def enter(self, principal: Principal | None, *, outside: bool) -> Callable[[], None]:
        """See `RouteLimits.enter`."""
        return self._seats.enter(principal, outside=outside)
