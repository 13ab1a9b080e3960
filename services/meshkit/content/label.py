"""Labels of information flow and their algebra.

A label is a point in a product of two chains and a set: joining two labels takes the less trusted integrity, the more
confidential confidentiality, and all sources. Join is associative, commutative and idempotent, and never lowers.

Source: D. Denning, "A lattice model of secure information flow", CACM 19(5), 1976.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

#: A label names at most this many sources; beyond, the set is folded into `ANY_SOURCE`.
MAX_SOURCES: Final = 32
ANY_SOURCE: Final = "*"


class Integrity(IntEnum):
    """How far content can be trusted as an instruction; a larger value is trusted less."""

    TRUSTED = 1
    USER = 2
    UNTRUSTED = 3


class Confidentiality(IntEnum):
    """Who may see content; a larger value is seen by fewer."""

    PUBLIC = 1
    TENANT = 2
    RESTRICTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where content came from and who may see it. The default is the most careful for integrity."""

    integrity: Integrity = Integrity.UNTRUSTED
    confidentiality: Confidentiality = Confidentiality.TENANT
    #: Where it came from, such as `agent:Athena`; at most 32, or `*` alone.
    sources: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.sources) > MAX_SOURCES or (ANY_SOURCE in self.sources and len(self.sources) > 1):
            object.__setattr__(self, "sources", frozenset({ANY_SOURCE}))

    def joined(self, other: "Label") -> "Label":
        """Gives the least label that is not below either."""
        return Label(
            integrity=max(self.integrity, other.integrity),
            confidentiality=max(self.confidentiality, other.confidentiality),
            sources=self.sources | other.sources,
        )

    def covers(self, other: "Label") -> bool:
        """Says whether this label is not below the other one, sources included."""
        return (
            self.integrity >= other.integrity
            and self.confidentiality >= other.confidentiality
            and (self.sources >= other.sources or ANY_SOURCE in self.sources)
        )


#: The identity of `joined`: what nothing was read for.
BOTTOM: Final = Label(integrity=Integrity.TRUSTED, confidentiality=Confidentiality.PUBLIC)

#: What content of unknown origin is taken for.
UNKNOWN: Final = Label()


def join(labels: Iterable[Label]) -> Label:
    """Joins any number of labels; of none, gives trusted and public."""
    result = BOTTOM
    for label in labels:
        result = result.joined(label)
    return result
