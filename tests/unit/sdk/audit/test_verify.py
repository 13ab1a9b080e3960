"""Nobody changes an export without being found, and the place is named."""

import copy
from collections.abc import Sequence
from io import BytesIO
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.lines import head_line, key_set_line
from comitia_sdk.audit.verify import ExportVerifier, Report, verify_export
from tests.support.audit_export import AuditKey, Export, an_entry, an_export

SIZE = 1_000
KEY = AuditKey()
EXPORT = an_export(SIZE, key=KEY, head_at=(1, 400, 777, SIZE))
HEADS_START = SIZE + 1


def verify(lines: Sequence[bytes], *, keys: AuditKeys | None = None, heads: Sequence[Head] = ()) -> Report:
    return verify_export(BytesIO(b"".join(lines)), keys=keys, heads=heads)


def first(report: Report) -> int:
    """The entry that the report names first."""
    assert not report.whole
    return min(fault.index for fault in report.faults)


def test_an_untouched_export_is_whole() -> None:
    for keys in (None, KEY.public):
        report = verify(EXPORT.lines, keys=keys, heads=EXPORT.heads)
        assert (report.whole, report.entries, report.heads, report.covered) == (True, SIZE, 4, SIZE)
        assert report.keys_trusted is (keys is not None)


def started(export: Export) -> ExportVerifier:
    verifier = ExportVerifier()
    for number, line in enumerate(export.lines, start=1):
        verifier.foresee(number, line)
    verifier.begin()
    return verifier


def fork(verifier: ExportVerifier) -> ExportVerifier:
    """Gives a verifier that goes on from the same place by itself."""
    other = copy.copy(verifier)
    other._report = copy.copy(verifier._report)
    other._report.faults = list(verifier._report.faults)
    other._positions = dict(verifier._positions)
    other._tree = copy.deepcopy(verifier._tree)
    return other


def test_every_byte_of_a_thousand_entries_is_guarded_and_the_entry_named() -> None:
    """Each byte is changed, one at a time, by the verifier that has come as far as its line."""
    dice = Random(7)
    verifier = started(EXPORT)
    changed = 0
    for index, line in enumerate(EXPORT.entries):
        here = fork(verifier)
        following = EXPORT.lines[index + 1]
        for place in range(len(line)):
            flipped = bytearray(line)
            flipped[place] ^= dice.randrange(1, 256)
            here._line, here._next, here._chain, here._tree = index, index, verifier._chain, None
            here._anchor, here._part = verifier._anchor, 0
            here._report.faults.clear()
            # A line end that goes joins two lines, one that comes parts one.
            joined = bytes(flipped) if flipped.endswith(b"\n") else bytes(flipped) + following
            for part in joined.splitlines(keepends=True) if b"\n" in joined[:-1] else (joined,):
                here.feed(part)
            assert here._report.faults, f"byte {place} of entry {index}: {joined!r}"
            assert here._report.faults[0].index == index, (joined, here._report.faults)
            here._report.faults.clear()
            changed += 1
        verifier.feed(line)
    assert changed == sum(map(len, EXPORT.entries)) > 300_000


def test_every_byte_of_the_heads_and_keys_is_guarded() -> None:
    behind = EXPORT.lines[SIZE:]
    verifier = started(EXPORT)
    for line in EXPORT.entries:
        verifier.feed(line)
    whole = b"".join(behind)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 + place % 255
        lines = bytes(flipped).splitlines(keepends=True)
        other = fork(verifier)
        other._found, other._keys, other._anchors = [], None, []
        for number, line in enumerate(lines, start=HEADS_START):
            other.foresee(number, line)
        other._anchor = 0
        other.begin()
        other._anchor = len(other._anchors)  # the entries agreed with those that hold
        for line in lines:
            other.feed(line)
        report = other.finish()
        assert not report.whole, f"byte {place}: {bytes(flipped[max(0, place - 40) : place + 40])!r}"
        assert all(fault.line >= SIZE for fault in report.faults)


def test_bytes_changed_in_the_file_are_found_with_the_entry() -> None:
    dice = Random(11)
    whole = b"".join(EXPORT.lines)
    for _ in range(60):
        place = dice.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= dice.randrange(1, 256)
        index = whole.count(b"\n", 0, place)
        report = verify([bytes(flipped)])
        assert first(report) == index if index < SIZE else not report.whole


@pytest.mark.parametrize("index", [0, 1, 500, 998, 999])
def test_a_deleted_entry_is_missed_at_its_place(index: int) -> None:
    lines = EXPORT.lines
    del lines[index]
    assert first(verify(lines)) == index


@pytest.mark.parametrize("count", [2, 300])
@pytest.mark.parametrize("where", ["head", "middle", "tail"])
def test_a_deleted_part_is_missed_at_its_place(where: str, count: int) -> None:
    index = {"head": 0, "middle": 350, "tail": SIZE - count}[where]
    lines = EXPORT.lines
    del lines[index : index + count]
    assert first(verify(lines)) == index


@pytest.mark.parametrize("index", [0, 399, 500, 998])
def test_swapped_entries_are_found_at_the_first_of_them(index: int) -> None:
    lines = EXPORT.lines
    lines[index], lines[index + 1] = lines[index + 1], lines[index]
    assert first(verify(lines)) == index


@pytest.mark.parametrize("index", [0, 500, SIZE])
def test_an_inserted_entry_is_found(index: int) -> None:
    forged = an_export([an_entry(number) for number in range(SIZE + 1)], key=KEY, head_at=()).entries[index]
    lines = EXPORT.lines
    lines.insert(index, forged.replace(b"budgets.limit", b"budgets.spend"))
    report = verify(lines)
    assert first(report) <= index
    assert index in {fault.index for fault in report.faults}


def test_a_repeated_entry_is_found() -> None:
    lines = EXPORT.lines
    lines.insert(500, lines[499])
    assert first(verify(lines)) == 499


def rewritten(key: AuditKey, *, at: int) -> Export:
    """A history with another entry at one place, and everything after it made to fit."""
    entries = [an_entry(number) for number in range(SIZE)]
    entries[at].actor = "key_forger"
    return an_export(entries, key=key, head_at=(1, 400, 777, SIZE))


@pytest.mark.parametrize(("at", "named"), [(0, 0), (1, 1), (399, 1), (776, 400), (900, 777), (999, 777)])
def test_a_rewritten_chain_contradicts_the_heads_that_were_signed(at: int, named: int) -> None:
    forged = rewritten(KEY, at=at)
    report = verify([*forged.entries, *map(head_line, EXPORT.heads), EXPORT.keys])
    assert first(report) == named
    assert named <= at


def test_a_rewritten_chain_with_heads_of_another_key_is_caught_by_trusted_keys() -> None:
    forged = rewritten(AuditKey(), at=500)
    assert verify(forged.lines).whole, "without trusted keys nobody can know"
    report = verify(forged.lines, keys=KEY.public)
    assert not report.whole
    assert "signature of the key 'audit-1' is wrong" in report.faults[0].sentence

    stranger = rewritten(AuditKey("audit-x"), at=500)
    assert "not trusted" in verify(stranger.lines, keys=KEY.public).faults[0].sentence


def test_a_chain_rewritten_with_the_stolen_key_is_caught_by_a_kept_head() -> None:
    forged = rewritten(KEY, at=500)
    assert verify(forged.lines, keys=KEY.public).whole
    report = verify(forged.lines, keys=KEY.public, heads=EXPORT.heads[2:3])
    assert first(report) == 400, "between the head over 400, which agrees, and the kept one over 777"


def test_an_old_export_passed_off_as_new_is_caught_by_a_kept_head() -> None:
    old = an_export(400, key=KEY, head_at=(1, 400))
    assert verify(old.lines).whole
    assert first(verify(old.lines, heads=EXPORT.heads[-1:])) == 400


def test_entries_without_a_head_are_not_taken_for_proven() -> None:
    lines = [*EXPORT.entries, *map(head_line, EXPORT.heads[:-1]), EXPORT.keys]
    assert first(verify(lines)) == 777
    assert first(verify([*EXPORT.entries, EXPORT.keys])) == 0


def test_entries_of_two_tenants_do_not_mix() -> None:
    entries = [an_entry(0), an_entry(1, tenant_id="tenant_other"), an_entry(2)]
    assert first(verify(an_export(entries, key=KEY, head_at=(3,)).lines)) == 1


def test_an_entry_chained_twice_is_found() -> None:
    entries = [an_entry(0), an_entry(1), an_entry(1), an_entry(2)]
    assert first(verify(an_export(entries, key=KEY, head_at=(4,)).lines)) == 2


@pytest.mark.parametrize("lines", [[], [b"\n"], [b"x" * 3_000_000], [key_set_line(KEY.public, {"audit-1"})]])
def test_what_is_no_export_is_no_whole_export(lines: list[bytes]) -> None:
    assert not verify(lines).whole


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=2, max_value=40), st.data())
def test_any_edit_of_any_export_is_found(size: int, data: st.DataObject) -> None:
    heads = data.draw(st.sets(st.integers(min_value=1, max_value=size), max_size=4)) | {size}
    export = an_export(size, key=KEY, head_at=sorted(heads))
    assert verify(export.lines, keys=KEY.public).whole
    lines = export.lines
    here = st.integers(min_value=0, max_value=size - 1)
    match data.draw(st.sampled_from(("delete", "swap", "repeat", "change"))):
        case "delete":
            del lines[data.draw(here)]
        case "swap":
            one, other = data.draw(st.lists(here, min_size=2, max_size=2, unique=True))
            lines[one], lines[other] = lines[other], lines[one]
        case "repeat":
            lines.insert(data.draw(st.integers(min_value=0, max_value=size)), lines[data.draw(here)])
        case _:
            index = data.draw(here)
            place = data.draw(st.integers(min_value=0, max_value=len(lines[index]) - 1))
            value = data.draw(st.integers(min_value=1, max_value=255))
            line = bytearray(lines[index])
            line[place] ^= value
            lines[index] = bytes(line)
    assert not verify(lines, keys=KEY.public).whole


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    verify_export(BytesIO(b"".join(EXPORT.lines)), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
