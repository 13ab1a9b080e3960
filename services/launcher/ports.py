"""Which local port each part of the mesh listens on: remembered, free, and out of the way of outgoing connections."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from random import Random
from typing import Final, Self

from services.launcher.errors import LauncherError
from services.launcher.services import SERVICES, Replicas, processes

#: Each service has one process.
NO_MORE: Final[Replicas] = {}

_HOST: Final = "127.0.0.1"
_METRICS: Final = "_metrics"
_DOORS: Final = "_doors"
#: Where inference serves the dialects of model providers.
DOORS: Final = f"inference{_DOORS}"

#: Where a first mesh on a machine listens.
PREFERRED: Final[Mapping[str, int]] = {
    "edge": 7400,
    "gateway": 7401,
    "orchestrator": 7402,
    "inference": 7403,
    "policy": 7404,
    "memory": 7405,
    "tools": 7406,
    "cost": 7407,
    DOORS: 7408,
    "gateway_metrics": 7411,
    "orchestrator_metrics": 7412,
    "inference_metrics": 7413,
    "policy_metrics": 7414,
    "memory_metrics": 7415,
    "tools_metrics": 7416,
    "cost_metrics": 7417,
    "east_west": 7409,
    "nats": 7422,
    "postgres": 7432,
    "local_model": 7450,
    "east_west_admin": 7489,
    "edge_admin": 7499,
}
#: Substitutes come from below Linux' range for outgoing connections (32768 and up), or one of those could sit on a
#: remembered port when the mesh comes back.
_SUBSTITUTES: Final = range(20_000, 32_000)
_MOST_TRIES: Final = 2_000


def metrics_port_name(process: str) -> str:
    """Names the port of the metrics page of a service's process."""
    return process + _METRICS


def doors_port_name(process: str) -> str:
    """Names the port at which a process of inference serves the dialects of model providers."""
    return process + _DOORS


def port_names(replicas: Replicas = NO_MORE) -> tuple[str, ...]:
    """Lists every port of a mesh."""
    serving = [process for service in SERVICES for process in processes(service, replicas.get(service, 1))]
    doors = map(doors_port_name, processes("inference", replicas.get("inference", 1)))
    beside = ("edge", "edge_admin", "east_west", "east_west_admin", "postgres", "nats", "local_model")
    return (*beside, *doors, *serving, *map(metrics_port_name, serving))


class PortClaims:
    """Ports that a mesh has taken, from the choice until it ends, although most are bound only later.

    A claim is a socket in Linux' abstract namespace: a name has one holder on the machine (or in the network namespace,
    as ports do), whoever that is, and the kernel lets go of it however the holder ends.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def claim(self, port: int) -> bool:
        """Takes a port; False when another mesh has it."""
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0comitia-port-{port}")
        except OSError:
            claim.close()
            return False
        self._held.append(claim)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_unused: object) -> None:
        for claim in self._held:
            claim.close()
        self._held.clear()


def is_free(port: int, *, host: str = _HOST) -> bool:
    """Tells whether a server could listen on the port now.

    gRPC servers share ports by SO_REUSEPORT without a word, so this asks without it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def choose(
    *,
    remembered: Mapping[str, int],
    asked: Mapping[str, int],
    external: Iterable[str] = (),
    claims: PortClaims,
    dice: Random,
    random_only: bool = False,
    edge_host: str = _HOST,
    replicas: Replicas = NO_MORE,
) -> dict[str, int]:
    """Chooses a free port for every part of the mesh.

    Args:
        remembered: ports of the last run, kept where still free.
        asked: ports that the user named; 0 means any.
        claims: receives what is chosen, so that meshes that start at once never choose the same.
        external: ports that `asked` names but another machine or process serves, so they need not be free.
        random_only: no preferred ports, so that meshes side by side do not race for them.
    Raises: LauncherError: a port asked for is taken, or asked for twice.
    """
    elsewhere = set(external)
    chosen: dict[str, int] = {}
    for name, port in asked.items():
        if port == 0:
            continue
        host = edge_host if name == "edge" else _HOST
        if port in chosen.values():
            raise LauncherError(f"port {port} is asked for twice, once for {name}; give each part its own")
        if name not in elsewhere and not (is_free(port, host=host) and claims.claim(port)):
            raise LauncherError(
                f"port {port} on {host}, asked for by {name}, is taken by another program; stop that or choose another"
            )
        chosen[name] = port
    for name in port_names(replicas):
        if name in chosen:
            continue
        wishes = [remembered.get(name)] if asked.get(name) != 0 else []
        if not random_only and asked.get(name) != 0:
            wishes.append(PREFERRED.get(name))
        host = edge_host if name == "edge" else _HOST
        used = set(chosen.values())
        candidates = (port for port in chain(wishes, _substitutes(dice)) if port and port not in used)
        chosen[name] = next(port for port in candidates if is_free(port, host=host) and claims.claim(port))
    return chosen


def _substitutes(dice: Random) -> Iterator[int]:
    for _ in range(_MOST_TRIES):
        yield dice.choice(_SUBSTITUTES)
    raise LauncherError("no free port between 20000 and 32000; stop some servers and try again")
