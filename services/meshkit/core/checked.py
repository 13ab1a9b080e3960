"""What somebody found who looked through a record."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a look at one part of a record came to."""

    #: What was looked at, with numbers.
    what: str
    #: Sentences about what is wrong; empty when nothing is.
    faults: Sequence[str] = ()
