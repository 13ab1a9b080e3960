"""The seven services, in the order in which they are listed, started and (backwards) stopped, and who is certified."""

from collections.abc import Mapping
from typing import Final

SERVICES: Final = ("cost", "policy", "memory", "tools", "inference", "orchestrator", "gateway")

#: Whom each service calls, itself where its replicas call each other. Nobody else is let through between them.
CALLS: Final[Mapping[str, frozenset[str]]] = {
    "gateway": frozenset(SERVICES),
    "orchestrator": frozenset(SERVICES),
    "inference": frozenset({"gateway", "policy", "cost"}),
    "policy": frozenset({"gateway"}),
    "memory": frozenset({"gateway", "policy", "inference"}),
    "tools": frozenset({"gateway", "policy", "cost", "inference"}),
    "cost": frozenset({"gateway"}),
}

#: Processes of one service that one machine runs at most.
MOST_REPLICAS: Final = 8

#: Services whose work any number of processes share. So could memory's, but Milvus Lite takes one process.
REPLICATED: Final = tuple(service for service in SERVICES if service != "memory")

#: How many processes each service has; those that are not named have one.
Replicas = Mapping[str, int]

#: Who shows a certificate where services speak TLS: those that serve, who calls them from the side, and who stands
#: between.
CERTIFIED: Final = (*SERVICES, "edge", "east-west", "launcher")


def processes(service: str, count: int = 1) -> tuple[str, ...]:
    """Names the processes of a service: the first has its name, those after it `orchestrator-2` and so on."""
    return (service, *(f"{service}-{number}" for number in range(2, count + 1)))


def service_of(process: str) -> str:
    """Gives the service whose process this is."""
    return process.partition("-")[0]
