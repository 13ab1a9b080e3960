"""The seven services, in the order in which they are listed, started and (backwards) stopped, and who is certified."""

from typing import Final

SERVICES: Final = ("cost", "policy", "memory", "tools", "inference", "orchestrator", "gateway")

#: Who shows a certificate where services speak TLS: those that serve, and those that call them from the side.
CERTIFIED: Final = (*SERVICES, "edge", "launcher")
