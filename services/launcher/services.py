"""The seven services, in the order in which they are listed, started and (backwards) stopped."""

from typing import Final

SERVICES: Final = ("cost", "policy", "memory", "tools", "inference", "orchestrator", "gateway")
