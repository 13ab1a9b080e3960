"""Verifies an export offline: what is wrong with it, and where.

Two passes over the file: the first finds the signed heads, which stand at its end; the second follows chain and tree
entry by entry and holds them against those heads. Memory does not grow with the number of entries.

What this proves: the entries are those that the heads signed, all of them and in that order. Whoever holds the signing
key can sign another history; heads that were kept elsewhere (`heads`) expose that too.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import SEEK_END, SEEK_SET
from typing import Any, BinaryIO, Final, cast

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import AuditKeys, Head, HeadMalformed
from comitia_sdk.audit.lines import (
    ENTRY_AT,
    ENTRY_START,
    HASH_CHARACTERS,
    HEAD_START,
    KEY_SET_START,
    MAX_LINE_BYTES,
    entry_line,
    key_set_line,
    read_entry_line,
    read_head,
    read_key_set,
)

#: Most faults that a report lists; the others are counted.
MOST_FAULTS: Final = 100
#: Lines between two words of progress.
_PROGRESS_LINES: Final = 8192
_END_BYTES: Final = len(b',"index":"","leaf_hash":""}\n') + HASH_CHARACTERS
#: Without guessing at the encoding, which costs `json.loads` a tenth of its time.
_DECODE: Final = json.JSONDecoder().decode

#: Told how many bytes of how many are done.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong."""

    #: Line of the file, from 1.
    line: int
    #: Entry concerned, or the first of them.
    index: int
    #: What is wrong with it.
    sentence: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What a verification found."""

    #: Tenant that the entries belong to; empty when there is none.
    tenant_id: str = ""
    entries: int = 0
    #: Signed heads that hold.
    heads: int = 0
    #: Entries that the newest of them covers.
    covered: int = 0
    #: True when the keys came from somewhere else than the export itself.
    keys_trusted: bool = False
    faults: list[Fault] = field(default_factory=list[Fault])
    #: All faults, those that are not listed too.
    fault_count: int = 0

    @property
    def whole(self) -> bool:
        """True when nothing is wrong."""
        return self.fault_count == 0


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A head whose signature holds."""

    head: Head
    line: int


def verify_export(
    file: BinaryIO, *, keys: AuditKeys | None = None, heads: Sequence[Head] = (), progress: Progress | None = None
) -> Report:
    """Verifies an export.

    Args:
        file: seekable.
        keys: public keys that the caller trusts. Without them those of the export are used, and a whole history that
            somebody made up and signed with a key of their own would pass.
        heads: heads that the caller kept, which the export has to agree with.
    """
    total = 2 * file.seek(0, SEEK_END)
    tell = progress or _silent
    verifier = ExportVerifier(keys=keys, heads=heads)
    for number, done, line in _lines(file):
        verifier.foresee(number, line)
        if not number % _PROGRESS_LINES:
            tell(done, total)
    verifier.begin()
    for number, done, line in _lines(file):
        verifier.feed(line)
        if not number % _PROGRESS_LINES:
            tell(total // 2 + done, total)
    tell(total, total)
    return verifier.finish()


class ExportVerifier:
    """The verification step by step: `foresee` each line, `begin`, `feed` each line, `finish`."""

    def __init__(self, *, keys: AuditKeys | None = None, heads: Sequence[Head] = ()) -> None:
        self._trusted = keys
        self._kept = heads
        self._report = Report(keys_trusted=keys is not None)
        self._found: list[tuple[int, Head]] = []
        self._keys: AuditKeys | None = None
        self._anchors: list[_Anchor] = []
        self._line = 0
        #: Index that the next entry must have.
        self._next = 0
        #: Chain hash so far; None where it cannot be told.
        self._chain: bytes | None = merkle.CHAIN_START
        #: None once entries are missing: what stands beside the gap is unknown.
        self._tree: merkle.Tree | None = merkle.Tree()
        self._anchor = 0
        #: Size at which chain and tree last agreed with a head.
        self._agreed = 0
        #: Whether an entry was found wrong since then.
        self._faulty = False
        #: Newest position by service and stream.
        self._positions: dict[tuple[Any, Any], int] = {}
        #: 0 among the entries, 1 among the heads, 2 after the key set.
        self._part = 0
        self._last_size = 0

    def foresee(self, number: int, line: bytes) -> None:
        """Takes up the heads and keys of the export; lets everything else pass."""
        try:
            if line.startswith(HEAD_START):
                self._found.append((number, read_head(line)))
            elif line.startswith(KEY_SET_START) and self._keys is None:
                self._keys = read_key_set(line)
        except HeadMalformed as error:
            self._fault(number, max(0, self._foreseen_size() - 1), f"this line is damaged: {error}")

    def begin(self) -> None:
        """Checks the signatures of the heads, before the entries come."""
        keys = self._trusted or self._keys or AuditKeys({})
        for number, head in self._found:
            wrong = keys.verify(head)
            if wrong is not None:
                self._fault(number, head.size - 1, f"the head over {head.size} entries does not hold: {wrong}")
            else:
                self._anchors.append(_Anchor(head, number))
        self._report.heads = len(self._anchors)
        for head in self._kept:
            wrong = keys.verify(head)
            if wrong is not None:
                self._fault(0, head.size - 1, f"the kept head over {head.size} entries does not hold: {wrong}")
            else:
                self._anchors.append(_Anchor(head, 0))
        # A kept head comes before one of the export over as many entries, whose word would count for those entries.
        self._anchors.sort(key=lambda anchor: (anchor.head.size, anchor.line))

    def feed(self, line: bytes) -> None:
        """Takes the next line."""
        self._line += 1
        if self._part == 0 and line.startswith(ENTRY_START):
            self._feed_entry(line)
        elif self._part < 2 and line.startswith(HEAD_START):
            self._part = 1
            self._feed_head(line)
        elif self._part < 2 and line.startswith(KEY_SET_START):
            self._part = 2
            self._feed_key_set(line)
        else:
            self._feed_stranger(line)

    def finish(self) -> Report:
        """Says what was found."""
        report = self._report
        report.entries = self._next
        covered = max((anchor.head.size for anchor in self._anchors[: self._anchor]), default=0)
        report.covered = covered
        for anchor in self._anchors[self._anchor :]:
            sentence = f"entries are missing from here on: a signed head covers {anchor.head.size}"
            self._fault(anchor.line or self._line, self._next, sentence)
        if covered < self._next and self._anchor == len(self._anchors):
            self._fault(self._line, covered, "no signed head covers the entries from here on")
        elif not self._next and not report.fault_count:
            self._fault(self._line, 0, "the export holds no entry")
        if self._part != 2:
            self._fault_behind("the export ends without its last line, the keys")
        report.faults.sort(key=lambda fault: (fault.line, fault.index))
        return report

    def _feed_entry(self, line: bytes) -> None:
        index = self._next
        canonical = line[ENTRY_AT : -_END_BYTES - len(str(index))]
        leaf = merkle.leaf_hash(canonical)
        if self._chain is not None:
            chain = merkle.chain_hash(self._chain, leaf)
            if line == entry_line(index, canonical, leaf, chain):
                self._take(canonical, leaf, chain)
                return
        self._explain(line)

    def _take(self, canonical: bytes, leaf: bytes, chain: bytes | None) -> None:
        """Goes on behind an entry."""
        wrong = self._judge(canonical)
        if wrong is not None:
            self._fault_here(wrong)
        self._next += 1
        self._chain = chain
        if self._tree is not None:
            self._tree.append(leaf)
        self._pass_anchors()

    def _judge(self, canonical: bytes) -> str | None:
        """Says what is wrong with the content of an entry, None when nothing is."""
        try:
            found: object = _DECODE(canonical.decode())
        except (ValueError, RecursionError):
            return "this is no entry"
        if not isinstance(found, dict):
            return "this is no entry"
        entry = cast(dict[str, Any], found)
        tenant = entry.get("tenant_id")
        report = self._report
        if tenant != report.tenant_id:
            if report.tenant_id or not isinstance(tenant, str) or not tenant:
                return f"this entry belongs to {tenant!r}, not to {report.tenant_id!r}"
            report.tenant_id = tenant
        stream = (entry.get("service"), entry.get("stream", 0))
        try:
            position = int(entry["position"])
            before = self._positions.get(stream, 0)
        except (KeyError, ValueError, TypeError):
            return "this entry does not say which it is of its service"
        if position <= before:
            return f"this entry is number {position} of {stream[0]}, and number {before} came before it"
        self._positions[stream] = position
        return None

    def _check(self, anchor: _Anchor) -> None:
        """Holds chain and tree against a head."""
        head = anchor.head
        agrees = (self._tree is None or self._tree.root() == head.root_hash) and self._chain in (None, head.chain_hash)
        if head.tenant_id != self._report.tenant_id:
            sentence = f"the head over {head.size} entries is one of {head.tenant_id!r}"
            self._fault(anchor.line or self._line, self._agreed, sentence)
        elif agrees:
            self._agreed, self._faulty = head.size, False
        elif not self._faulty:
            where = "that was kept" if not anchor.line else f"in line {anchor.line}"
            sentence = f"the entries from here to {head.size - 1} are not those that the head {where} signed"
            self._fault(self._line, self._agreed, sentence)

    def _explain(self, line: bytes) -> None:
        """Says what is wrong with an entry's line, and finds a way to go on behind it."""
        found = read_entry_line(line)
        if found is None:
            self._fault_here("this line is damaged")
            self._lose(1)
            return
        claimed, canonical, claimed_leaf, claimed_chain = found
        leaf = merkle.leaf_hash(canonical)
        if claimed != self._next and self._follows(leaf, claimed_chain):
            self._fault_here(f"this entry is numbered {claimed}")
            self._take_faulty(leaf, claimed_chain)
            return
        if claimed < self._next:
            self._fault(self._line, claimed, "this entry stands here a second time, or out of place")
            self._faulty = True
            return
        if claimed > self._next:
            missing = "an entry is" if claimed == self._next + 1 else f"entries to {claimed - 1} are"
            self._fault_here(f"{missing} missing here")
            self._lose(claimed - self._next)
        if self._chain is None and leaf == claimed_leaf and self._is_spelt_well(line, canonical, leaf, claimed_chain):
            self._take(canonical, leaf, claimed_chain)
            return
        self._fault_here(self._difference(leaf, claimed_leaf, claimed_chain))
        if self._follows(claimed_leaf, claimed_chain):
            # The chain stands: only what the entry says was changed, and what it said before is proven by its hash.
            leaf = claimed_leaf
        self._take_faulty(leaf, claimed_chain)

    def _difference(self, leaf: bytes, claimed_leaf: bytes, claimed_chain: bytes) -> str:
        if leaf != claimed_leaf:
            return "this entry was changed: its hash is another than the one beside it"
        if self._chain is not None and not self._follows(leaf, claimed_chain):
            return "the chain breaks here: the hash does not follow from the entry before and this one"
        return "this line is not spelt as it was exported"

    def _take_faulty(self, leaf: bytes, claimed_chain: bytes) -> None:
        self._next += 1
        self._chain = claimed_chain if self._follows(leaf, claimed_chain) else None
        if self._tree is not None:
            self._tree.append(leaf)
        self._pass_anchors()

    def _follows(self, leaf: bytes, chain: bytes) -> bool:
        """Tells whether this is the chain hash of an entry of this hash that comes next."""
        return self._chain is not None and merkle.chain_hash(self._chain, leaf) == chain

    def _lose(self, entries: int) -> None:
        """Goes on behind entries that cannot be read."""
        self._next += entries
        self._chain = None
        self._tree = None
        self._pass_anchors()

    def _pass_anchors(self) -> None:
        while self._anchor < len(self._anchors) and self._anchors[self._anchor].head.size <= self._next:
            if self._anchors[self._anchor].head.size == self._next:
                self._check(self._anchors[self._anchor])
            self._anchor += 1

    def _is_spelt_well(self, line: bytes, canonical: bytes, leaf: bytes, chain: bytes) -> bool:
        return line == entry_line(self._next, canonical, leaf, chain)

    def _feed_head(self, line: bytes) -> None:
        try:
            size = read_head(line).size
        except HeadMalformed:
            return  # told by `foresee`
        if size <= self._last_size:
            self._fault(self._line, size - 1, "this head stands here a second time, or out of place")
        self._last_size = size

    def _feed_key_set(self, line: bytes) -> None:
        try:
            keys = read_key_set(line)
        except HeadMalformed:
            return  # told by `foresee`
        used = {head.key_id for _, head in self._found}
        if key_set_line(keys, used) != line:
            self._fault(
                self._line, max(0, self._next - 1), "the keys are not those of the heads, or not spelt as exported"
            )
        elif self._trusted is not None and not keys.keys.items() <= self._trusted.keys.items():
            self._fault(self._line, max(0, self._next - 1), "the export holds keys that are not trusted")

    def _feed_stranger(self, line: bytes) -> None:
        if self._part == 0 and not self._found_behind():
            self._fault_here("this line is damaged")
            self._lose(1)
            return
        self._fault_behind("this line does not belong here")

    def _found_behind(self) -> bool:
        """Tells whether all entries that the heads cover have come, so that a strange line is no damaged entry."""
        return self._next >= max((head.size for _, head in self._found), default=0)

    def _foreseen_size(self) -> int:
        return self._found[-1][1].size if self._found else 0

    def _fault_here(self, sentence: str) -> None:
        self._faulty = True
        self._fault(self._line, self._next, sentence)

    def _fault_behind(self, sentence: str) -> None:
        """Names the last entry for what is wrong behind the entries."""
        self._fault(self._line, max(0, self._next - 1), sentence)

    def _fault(self, line: int, index: int, sentence: str) -> None:
        self._report.fault_count += 1
        if len(self._report.faults) < MOST_FAULTS:
            self._report.faults.append(Fault(line=line, index=index, sentence=sentence))


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Gives the lines from the beginning with their numbers and the bytes so far; a line too long comes in pieces."""
    file.seek(0, SEEK_SET)
    number = done = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        done += len(line)
        yield number, done, line


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
