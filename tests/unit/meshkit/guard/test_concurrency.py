"""The share of a server that one tenant may have."""

from collections.abc import Callable
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from comitia.guard_table import Guard
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.grpc.limits import TooManyInProgress
from services.meshkit.guard.concurrency import RouteSeats, SeatGate
from services.meshkit.telemetry import names

SHORT = Guard("x", 0, 30, False, frozenset())
LONG = Guard("x", 0, 3600, False, frozenset())


def a_caller(tenant: int) -> Principal:
    return Principal(tenant=TenantId(UUID(int=tenant)), subject="key", roles=frozenset())


def fill(route: RouteSeats, tenant: int, *, outside: bool = True) -> list[Callable[[], None]]:
    """Enters until there is no more room for the tenant."""
    inside: list[Callable[[], None]] = []
    try:
        while len(inside) < 1000:
            inside.append(route.enter(a_caller(tenant), outside=outside))
    except TooManyInProgress:
        pass
    return inside


def test_one_tenant_gets_two_thirds_and_there_is_room_for_others() -> None:
    route = SeatGate(300, service="tested").route(SHORT)
    assert len(fill(route, 1)) == 200
    assert len(fill(route, 2)) >= 60
    assert len(fill(route, 3)) >= 20


def test_seats_are_given_back_and_nobody_is_kept_who_has_none() -> None:
    gate = SeatGate(30, service="tested")
    route = gate.route(SHORT)
    for leave in fill(route, 1):
        leave()
    assert gate.calls.taken == 0
    assert len(fill(route, 2)) == 20
    assert not gate.calls._by_tenant.keys() - {TenantId(UUID(int=2))}  # pyright: ignore[reportPrivateUsage]


def test_long_streams_have_seats_of_their_own() -> None:
    gate = SeatGate(300, service="tested")
    assert len(fill(gate.route(LONG), 1)) == 100
    assert len(fill(gate.route(SHORT), 1)) == 200


def test_services_are_counted_and_never_refused() -> None:
    gate = SeatGate(30, service="tested")
    route = gate.route(SHORT)
    assert len([route.enter(a_caller(1), outside=False) for _ in range(40)]) == 40
    with pytest.raises(TooManyInProgress):
        route.enter(a_caller(2), outside=True)


def test_an_rpc_may_allow_less_and_says_how_much() -> None:
    narrow = Guard("x", 0, 30, False, frozenset(), per_tenant_in_progress=3)
    route = SeatGate(300, service="tested").route(narrow)
    inside = fill(route, 1)
    assert len(inside) == 3
    counted = _refused()
    with pytest.raises(TooManyInProgress) as refused:
        route.enter(a_caller(1), outside=True)
    assert _refused() == counted + 1
    assert refused.value.metadata["most"] == "3"
    assert refused.value.retry_after is not None
    inside[0]()
    assert len(fill(route, 1)) == 1
    assert len(fill(route, 2)) == 3


def _refused() -> float:
    return REGISTRY.get_sample_value(names.SEATS_REFUSED_TOTAL, {"service": "tested", "kind": "call"}) or 0.0
