"""Hashes, chain and Merkle tree of the audit trail, with its proofs.

Source: RFC 6962, section 2.1 (hashes, inclusion and consistency proofs); RFC 9162, sections 2.1.3.2 and 2.1.4.2 (how
proofs are verified).

A tree over n leaves is a row of perfect trees, its peaks, which never change once they are full. So whoever keeps the
hash of each perfect subtree can prove everything about every earlier size with O(log n) of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

#: Chain hash before the first entry.
CHAIN_START: Final = bytes(32)
#: Root of a tree without leaves.
EMPTY_ROOT: Final = sha256().digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class Place(NamedTuple):
    """A perfect subtree: the `number`-th of those over 2**level leaves. Level 0 are the leaves."""

    level: int
    number: int


def leaf_hash(canonical: bytes) -> bytes:
    """Hashes an entry."""
    return sha256(_LEAF + canonical).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hashes an inner node."""
    return sha256(_NODE + left + right).digest()


def chain_hash(before: bytes, leaf: bytes) -> bytes:
    """Hashes the next link of the chain."""
    return sha256(before + leaf).digest()


@dataclass(slots=True)
class Tree:
    """The right edge of a tree that grows: enough to add leaves and to know the root, in O(log n) memory."""

    size: int = 0
    #: Roots of the perfect trees that stand side by side, largest first.
    peaks: list[bytes] = field(default_factory=list[bytes])

    def append(self, leaf: bytes) -> list[bytes]:
        """Adds a leaf. Returns the roots of the perfect trees of 2, 4, 8, … leaves that it ends, smallest first."""
        completed: list[bytes] = []
        peaks = self.peaks
        hashed = leaf
        number = self.size
        while number & 1:
            hashed = sha256(_NODE + peaks.pop() + hashed).digest()
            completed.append(hashed)
            number >>= 1
        peaks.append(hashed)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Gives the root over all leaves so far."""
        return _fold(self.peaks)


def root_places(size: int) -> list[Place]:
    """Names the peaks of a tree of this size, largest first."""
    return _peaks(0, size)


def root_of(size: int, hashes: Mapping[Place, bytes]) -> bytes:
    """Gives the root of the tree that the first `size` leaves make, from the hashes of its peaks."""
    return _fold([hashes[place] for place in root_places(size)])


def inclusion_places(index: int, size: int) -> list[Place]:
    """Names what `inclusion_path` needs to know.

    Raises: ValueError: not 0 <= index < size.
    """
    return [place for first, end in _siblings(index, size) for place in _peaks(first, end)]


def inclusion_path(index: int, size: int, hashes: Mapping[Place, bytes]) -> list[bytes]:
    """Proves that leaf `index` is in the tree over the first `size` leaves: its sibling hashes, from leaf to root."""
    return [_subtree(first, end, hashes) for first, end in _siblings(index, size)]


def consistency_places(first: int, second: int) -> list[Place]:
    """Names what `consistency_path` needs to know.

    Raises: ValueError: not 0 < first <= second.
    """
    return [place for begin, end in _consistent(first, second) for place in _peaks(begin, end)]


def consistency_path(first: int, second: int, hashes: Mapping[Place, bytes]) -> list[bytes]:
    """Proves that the tree over `first` leaves is the beginning of the tree over `second`. Empty for equal sizes."""
    return [_subtree(begin, end, hashes) for begin, end in _consistent(first, second)]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tells whether `path` proves that `leaf` is number `index` in the tree of this size and root."""
    if not 0 <= index < size:
        return False
    number, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            found = node_hash(sibling, found)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        number >>= 1
        last >>= 1
    return last == 0 and found == root


def verify_consistency(first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Tells whether `path` proves that the first tree is the beginning of the second."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    # A first tree that is perfect is itself the beginning of the path.
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes:
        return False
    number, last = first - 1, second - 1
    while number & 1:
        number >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        number >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Gives the ranges of leaves beside the way from a leaf to the root, from below."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    begin, end = 0, size
    found: list[tuple[int, int]] = []
    while end - begin > 1:
        middle = begin + _left_size(end - begin)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    return found[::-1]


def _consistent(first: int, second: int) -> list[tuple[int, int]]:
    """Gives the ranges of leaves whose hashes make a consistency proof (SUBPROOF of RFC 6962)."""
    if not 0 < first <= second:
        raise ValueError(f"a tree of {first} is not the beginning of one of {second}")
    begin, end, whole = 0, second, True
    found: list[tuple[int, int]] = []
    left = first
    while left != end - begin:
        middle = begin + _left_size(end - begin)
        if left <= middle - begin:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            left -= middle - begin
            begin, whole = middle, False
    if not whole:
        found.append((begin, end))
    return found[::-1]


def _left_size(size: int) -> int:
    """Gives the largest power of two below `size` (> 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtree(begin: int, end: int, hashes: Mapping[Place, bytes]) -> bytes:
    return _fold([hashes[place] for place in _peaks(begin, end)])


def _peaks(begin: int, end: int) -> list[Place]:
    """Splits a range of leaves that begins at a subtree's first leaf into perfect subtrees, largest first."""
    return list(_split(begin, end))


def _split(begin: int, end: int) -> Iterator[Place]:
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield Place(level, begin >> level)
        begin += 1 << level


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    found = peaks[-1]
    for peak in reversed(peaks[:-1]):
        found = node_hash(peak, found)
    return found
