import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from services.launcher import ports
from services.launcher.errors import LauncherError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def choose(
    remembered: dict[str, int] | None = None, asked: dict[str, int] | None = None, seed: int = 1
) -> dict[str, int]:
    """Chooses as a mesh that ends at once."""
    with ports.PortClaims() as claims:
        return choose_with(claims, remembered, asked, seed)


def choose_with(
    claims: ports.PortClaims,
    remembered: dict[str, int] | None = None,
    asked: dict[str, int] | None = None,
    seed: int = 1,
) -> dict[str, int]:
    dice = Random(seed)
    return ports.choose(remembered=remembered or {}, asked=asked or {}, claims=claims, dice=dice, random_only=True)


def test_every_part_gets_a_port_of_its_own() -> None:
    chosen = choose()

    assert chosen.keys() == set(ports.port_names())
    assert len(set(chosen.values())) == len(chosen)


def test_random_ports_stay_below_the_range_for_outgoing_connections() -> None:
    assert all(20_000 <= port < 32_000 for port in choose().values())


def test_a_remembered_port_is_kept() -> None:
    before = choose(seed=1)

    assert choose(remembered=before, seed=2) == before


def test_a_remembered_port_that_is_taken_is_replaced(taken: int) -> None:
    assert choose(remembered={"postgres": taken})["postgres"] != taken


def test_a_port_asked_for_that_is_taken_is_refused_by_name_and_number(taken: int) -> None:
    with pytest.raises(LauncherError, match=rf"port {taken} .* asked for by edge, is taken by another program"):
        choose(asked={"edge": taken})


def test_a_port_asked_for_twice_is_refused() -> None:
    free = choose()["edge"]

    with pytest.raises(LauncherError, match=f"port {free} is asked for twice"):
        choose(asked={"edge": free, "tools": free})


def test_asking_for_port_0_takes_any_free_one() -> None:
    before = choose(seed=1)

    assert choose(remembered=before, asked={"edge": 0}, seed=2)["edge"] != before["edge"]


def test_preferred_ports_come_first_where_they_are_free() -> None:
    with ports.PortClaims() as claims:
        chosen = ports.choose(remembered={}, asked={}, claims=claims, dice=Random(1))
        free = {name: port for name, port in ports.PREFERRED.items() if chosen[name] == port or may_be_taken(port)}

    assert chosen.items() >= free.items()


def may_be_taken(port: int) -> bool:
    """Tells whether nobody has a port: no server, and no mesh that has yet to bind it."""
    with ports.PortClaims() as claims:
        return ports.is_free(port) and claims.claim(port)


def test_meshes_that_choose_at_once_never_choose_the_same() -> None:
    meshes, all_chose = 8, threading.Barrier(8)

    def start(_: int) -> set[int]:
        with ports.PortClaims() as claims:
            chosen = choose_with(claims, seed=1)  # the same dice: each would choose what the others do
            all_chose.wait(30)
            return set(chosen.values())

    with ThreadPoolExecutor(meshes) as threads:
        chosen = list(threads.map(start, range(meshes)))

    assert len(set[int]().union(*chosen)) == meshes * len(ports.port_names())


def test_a_port_that_another_mesh_has_yet_to_bind_is_taken() -> None:
    with ports.PortClaims() as claims:
        theirs = choose_with(claims)
        assert not set(choose(remembered=theirs).values()) & set(theirs.values())
        with pytest.raises(LauncherError, match="is taken by another program"):
            choose(asked={"edge": theirs["edge"]})

    assert choose(remembered=theirs) == theirs
