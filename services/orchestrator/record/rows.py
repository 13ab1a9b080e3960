"""What lies in the journal, a commit at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice, zip_longest


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """One commit of a run. Without its content, where the key of that was destroyed."""

    #: Sequence of its first fact.
    first_sequence: int
    #: Of each fact, 32 bytes, in order.
    commitments: Sequence[bytes]
    record_time: datetime
    #: Encoded facts and their salts, in order; None when nobody can read them any more.
    content: "RowContent | None" = field(default=None, repr=False)

    @property
    def facts(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Gives each fact with its salt and commitment; none when they cannot be read.

        Where commitments or salts are missing, they are empty: such a fact is not what was committed to.
        """
        if self.content is None:
            return
        places = zip_longest(self.content.entries, self.content.salts, self.commitments, fillvalue=b"")
        yield from islice(places, len(self.content.entries))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContent:
    """The facts of a commit, byte for byte."""

    entries: Sequence[bytes] = field(repr=False)
    salts: Sequence[bytes] = field(repr=False)
