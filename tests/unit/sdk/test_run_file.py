"""A run as a file: what was changed in it is found where it stands, and hostile files are refused in a sentence."""

import io
import json
import random
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.record import run_file
from comitia_sdk.record.run_file import (
    RecordedCommit,
    RunFileBroken,
    RunFileReader,
    RunFileUnknown,
    RunFileWriter,
)
from tests.support.record_histories import FOLDER

LINES = (FOLDER / "debate.comitia").read_bytes().splitlines(keepends=True)
RUN_ID = "run_01jd0000000000000000000000"


def read(content: bytes) -> RunFileReader:
    """Reads a file to its end."""
    reader = RunFileReader(io.BytesIO(content))
    if reader.structure_only:
        list(reader.commits())
    else:
        list(reader.facts())
    return reader


def joined(*lines: bytes) -> bytes:
    return b"".join(lines)


def rechained(lines: list[bytes]) -> bytes:
    """Writes the chain of every line anew, as somebody would who changes a file on purpose."""
    chain, written = bytes(32), list[bytes]()
    for line in lines:
        body = line[line.index(b'",') + 2 :].rstrip(b"\n")
        chain = sha256(chain + body).digest()
        written.append(b'{"chain":"%b",%b\n' % (b64encode(chain), body))
    return joined(*written)


def with_fields(line: bytes, kind: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Changes the fields of a line, which keeps its spelling."""
    document = json.loads(line)
    fields = document[kind]
    change(fields)
    return b'{"chain":"%b",%b\n' % (document["chain"].encode(), canonical_json({kind: fields})[1:])


def test_a_file_is_read_as_it_was_written() -> None:
    reader = read(joined(*LINES))
    assert (reader.run_id, reader.fact_count, reader.structure_only) == (RUN_ID, len(LINES) - 2, False)
    assert reader.manifest["program"] == "dialogue"
    assert rechained(LINES) == joined(*LINES)


def test_every_changed_byte_is_found() -> None:
    dice = random.Random(7)
    content = joined(*LINES)
    for _ in range(300):
        at = dice.randrange(len(content))
        changed = bytearray(content)
        changed[at] ^= 1 << dice.randrange(8)
        with pytest.raises((RunFileBroken, RunFileUnknown)) as broken:
            read(bytes(changed))
        if isinstance(broken.value, RunFileBroken):
            line = content.count(b"\n", 0, at) + 1
            assert broken.value.line in (line, line + 1)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty", b"", "the file is empty"),
        ("no file of a run", b"{}\n", "this is no file of a run"),
        ("a line left out", joined(*LINES[:5], *LINES[6:]), "line 6: does not follow"),
        ("a line twice", joined(*LINES[:5], LINES[4], *LINES[5:]), "line 6: does not follow"),
        ("two lines changed about", joined(*LINES[:5], LINES[6], LINES[5], *LINES[7:]), "line 6: does not follow"),
        ("cut after a line", joined(*LINES[:-1]), "the file ends where the manifest was to come"),
        ("cut within a line", joined(*LINES)[:-9], "it was changed or cut"),
        ("more after the end", joined(*LINES, b"\n"), "the file goes on after its manifest"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_file_that_was_cut_or_mixed_up_says_where(name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(RunFileBroken, match=sentence):
        read(content)


def test_a_fact_that_was_changed_with_its_chain_breaks_its_commitment() -> None:
    entry = bytearray(next(iter(RunFileReader(io.BytesIO(joined(*LINES))).facts())).entry.SerializeToString())
    entry[-1] ^= 1
    lines = list(LINES)
    lines[1] = with_fields(lines[1], "fact", lambda fact: fact.update(entry=b64encode(bytes(entry)).decode()))
    with pytest.raises(RunFileBroken, match="fact 1 is not what its commitment was made of"):
        read(rechained(lines))


def test_a_manifest_that_says_otherwise_than_the_facts_is_refused() -> None:
    lines = list(LINES)
    lines[-1] = with_fields(lines[-1], "manifest", lambda manifest: manifest.update(state="FAILED"))
    with pytest.raises(RunFileBroken, match="otherwise than the facts: state"):
        read(rechained(lines))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda head: head.update(version=2), "of version 2, and this release reads version 1"),
        (lambda head: head.update(version=True), "of version True"),
        (lambda head: head.update(facts="0"), "no head"),
        (lambda head: head.update(facts=7), "no head"),
        (lambda head: head.update(facts="9" * 19), "at most 1000000 are read"),
        (lambda head: head.update(run_id=7), "no head"),
        (lambda head: head.update(run_id="run_\x1b[2J"), "no head"),
        (lambda head: head.update(more="x"), "no head"),
        (lambda head: head.update(format="comitia.audit"), "no file of a run"),
        (lambda head: head.update(structure_only=True), "is not a commit"),
    ],
)
def test_a_head_that_is_none_is_refused(change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    lines = [with_fields(LINES[0], "head", change), *LINES[1:]]
    with pytest.raises((RunFileBroken, RunFileUnknown), match=sentence):
        read(rechained(lines))


def test_another_spelling_of_a_line_is_a_change() -> None:
    lines = list(LINES)
    lines[0] = lines[0].replace(b'"facts":', b'"facts": ')
    with pytest.raises(RunFileBroken):
        read(rechained(lines))
    lines = list(LINES)
    lines[-1] = lines[-1].replace(b'"facts":', b'"facts": ')
    with pytest.raises(RunFileBroken, match="line 38"):
        read(rechained(lines))


def test_a_lone_surrogate_is_refused_like_anything_that_no_writer_writes() -> None:
    lines = list(LINES)
    lines[0] = lines[0].replace(RUN_ID.encode(), b"\\ud800")
    with pytest.raises(RunFileBroken, match="no head"):
        read(rechained(lines))
    lines = list(LINES)
    lines[-1] = lines[-1].replace(b'"agents"', b'"\\ud800"')
    with pytest.raises(RunFileBroken, match="otherwise than the facts: agents"):
        read(rechained(lines))


def test_a_line_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "MAX_LINE_BYTES", 100_000)
    with pytest.raises(RunFileBroken, match="longer than 100000 bytes"):
        read(joined(LINES[0], b'{"chain":"' + b"A" * 200_000))
    monkeypatch.setattr(run_file, "MAX_FILE_BYTES", 30_000)
    with pytest.raises(RunFileBroken, match="the file is longer than 30000 bytes"):
        read(joined(*LINES, *LINES))


@pytest.mark.parametrize("content", [b"\0" * 1000, b"[" * 100_000, b'{"head":' + b"{" * 50_000, b"\xff\xfe{}\n"])
def test_what_is_no_file_at_all_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(RunFileBroken, match="line 1: "):
        read(content)


def a_structure(*firsts: int) -> bytes:
    """Writes a file without content, with commits of two facts each."""
    writer = RunFileWriter(RUN_ID, facts=2 * len(firsts), structure_only=True)
    lines = [writer.head()]
    for first in firsts:
        digests = tuple(sha256(str(number).encode()).digest() for number in (first, first + 1))
        time = "2026-01-01T00:00:00+00:00"
        lines.append(writer.commit(RecordedCommit(first_sequence=first, commitments=digests, record_time=time)))
    return joined(*lines, writer.end())


def test_a_file_without_content_shows_the_order_of_its_commits() -> None:
    reader = read(a_structure(1, 3, 5))
    assert (reader.structure_only, reader.fact_count) == (True, 6)
    with pytest.raises(RunFileBroken, match="begins with fact 5, and fact 3 comes next"):
        read(a_structure(1, 5, 3))
    with pytest.raises(ValueError, match="has commits"):
        next(RunFileReader(io.BytesIO(a_structure(1))).facts())


def test_histories_are_read_in_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "run.comitia"
    file.write_bytes(joined(*LINES))
    with file.open("rb") as opened:
        reader = RunFileReader(opened)
        kept = [fact.sequence for fact in reader.facts()]
    assert kept == list(range(1, reader.fact_count + 1))
