"""Every proof verifies, and nothing else does."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comitia_sdk.audit import merkle
from comitia_sdk.audit.merkle import Place, Tree

SIZES = st.integers(min_value=1, max_value=300)


class Grown:
    """A tree with all that a gateway keeps of it."""

    def __init__(self, size: int) -> None:
        self.leaves = [merkle.leaf_hash(b"entry %d" % number) for number in range(size)]
        self.hashes: dict[Place, bytes] = {}
        self.tree = Tree()
        for number, leaf in enumerate(self.leaves):
            self.hashes[Place(0, number)] = leaf
            for level, node in enumerate(self.tree.append(leaf), start=1):
                self.hashes[Place(level, number >> level)] = node

    def root(self, size: int) -> bytes:
        return root_by_definition(self.leaves[:size])


def root_by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, as it is written there."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << ((len(leaves) - 1).bit_length() - 1)
    return merkle.node_hash(root_by_definition(leaves[:left]), root_by_definition(leaves[left:]))


GROWN = Grown(300)
ROOTS = [GROWN.root(size) for size in range(301)]


def test_the_hashes_are_those_of_the_rfc() -> None:
    # Test vectors of the reference implementation of RFC 6962.
    data = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
    tree = Tree()
    for one in data:
        tree.append(merkle.leaf_hash(one))
    assert merkle.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert tree.root().hex() == "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"


def test_every_size_has_the_root_of_the_definition() -> None:
    tree = Tree()
    for size, leaf in enumerate(GROWN.leaves, start=1):
        tree.append(leaf)
        assert tree.root() == ROOTS[size] == merkle.root_of(size, GROWN.hashes)


@given(SIZES, st.data())
def test_every_inclusion_proof_verifies_and_is_short(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(min_value=0, max_value=size - 1))
    wanted = {place: GROWN.hashes[place] for place in merkle.inclusion_places(index, size)}
    path = merkle.inclusion_path(index, size, wanted)

    assert merkle.verify_inclusion(GROWN.leaves[index], index, size, path, ROOTS[size])
    assert len(path) <= (size - 1).bit_length()
    assert len(wanted) <= 2 * size.bit_length()


@given(SIZES, st.data())
def test_a_changed_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(min_value=0, max_value=size - 1))
    path = merkle.inclusion_path(index, size, GROWN.hashes)
    leaf, root = GROWN.leaves[index], ROOTS[size]
    other = data.draw(st.integers(min_value=0, max_value=299).filter(lambda number: number != index))

    assert not merkle.verify_inclusion(GROWN.leaves[other], index, size, path, root)
    assert not merkle.verify_inclusion(leaf, index, size, path, ROOTS[size - 1])
    assert not merkle.verify_inclusion(leaf, index, size, [*path, leaf], root)
    assert not merkle.verify_inclusion(leaf, index, index, path, root)
    assert not merkle.verify_inclusion(leaf, -1, size, path, root)
    if path:
        place = data.draw(st.integers(min_value=0, max_value=len(path) - 1))
        flipped = bytes((path[place][0] ^ 1, *path[place][1:]))
        assert not merkle.verify_inclusion(leaf, index, size, [*path[:place], flipped, *path[place + 1 :]], root)
        assert not merkle.verify_inclusion(leaf, index, size, path[:-1], root)


@given(SIZES, st.data())
def test_every_consistency_proof_verifies_and_a_changed_one_does_not(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(min_value=1, max_value=second))
    wanted = {place: GROWN.hashes[place] for place in merkle.consistency_places(first, second)}
    path = merkle.consistency_path(first, second, wanted)

    assert merkle.verify_consistency(first, second, path, ROOTS[first], ROOTS[second])
    assert not merkle.verify_consistency(first, second, path, ROOTS[first - 1], ROOTS[second])
    assert not merkle.verify_consistency(first, second, path, ROOTS[first], ROOTS[second - 1])
    assert not merkle.verify_consistency(first, second, [*path, ROOTS[1]], ROOTS[first], ROOTS[second])
    assert not merkle.verify_consistency(0, second, path, ROOTS[0], ROOTS[second])
    for place in range(len(path)):
        flipped = bytes((path[place][0] ^ 128, *path[place][1:]))
        changed = [*path[:place], flipped, *path[place + 1 :]]
        assert not merkle.verify_consistency(first, second, changed, ROOTS[first], ROOTS[second])
        assert not merkle.verify_consistency(first, second, path[:place], ROOTS[first], ROOTS[second])


def test_a_proof_of_what_is_not_there_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.inclusion_path(3, 3, GROWN.hashes)
    with pytest.raises(ValueError, match="not the beginning"):
        merkle.consistency_path(4, 3, GROWN.hashes)
