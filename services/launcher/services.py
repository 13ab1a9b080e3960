"""The seven services, in the order in which they are listed, started and (backwards) stopped, and who is certified."""

from typing import Final

SERVICES: Final = ("cost", "policy", "memory", "tools", "inference", "orchestrator", "gateway")

#: Processes of the orchestrator that one machine runs at most.
MOST_ORCHESTRATORS: Final = 8

#: Who shows a certificate where services speak TLS: those that serve, and those that call them from the side.
CERTIFIED: Final = (*SERVICES, "edge", "launcher")


def processes(service: str, orchestrators: int = 1) -> tuple[str, ...]:
    """Names the processes of a service: the first has its name, those after it `orchestrator-2` and so on."""
    count = orchestrators if service == "orchestrator" else 1
    return (service, *(f"{service}-{number}" for number in range(2, count + 1)))


def service_of(process: str) -> str:
    """Gives the service whose process this is."""
    return process.partition("-")[0]
