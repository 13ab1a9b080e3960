"""A run as a file: JSON lines, of which every byte is fixed by what it says.

    {"chain":"…","head":{"facts":"42","format":"comitia.run","run_id":"run_…","structure_only":false,"version":1}}
    {"chain":"…","fact":{"commitment":"…","entry":"…","salt":"…","sequence":"1"}}             each fact, in order
    {"chain":"…","manifest":{"agents":[…],…}}                                                 what it pinned, last

A file without content, of a run whose key was destroyed, has the commits in place of the facts:

    {"chain":"…","commit":{"commitments":["…",…],"first_sequence":"1","record_time":"…"}}

`chain` is SHA-256 over the chain of the line before and the line itself without its chain, so a line that was changed,
left out, added or moved is found where it stands. An entry is the fact as the journal holds it, byte for byte: its
commitment is SHA-256 over salt and entry. Each line is RFC 8785 JSON, so any other spelling of it is a change.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO, Final, NamedTuple, cast

from google.protobuf.message import DecodeError

from comitia.orchestrator.v1 import journal_pb2
from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.record.manifest import ManifestMaker

FORMAT: Final = "comitia.run"
VERSION: Final = 1
#: Most facts of one file.
MAX_FACTS: Final = 1_000_000
#: Longest line that is read: a fact holds one message of at most 4 MB, its request or answer, and little more.
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
#: Most bytes of one file that are read.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024 * 1024

_START: Final = bytes(32)
_RUN_ID: Final = re.compile(r"run_[0-9a-z]{26}")
_HASH: Final = rb"[A-Za-z0-9+/]{43}="
_LINE: Final = re.compile(rb'\{"chain":"(%b)",("(?:head|fact|commit|manifest)":.*\})\n' % _HASH, re.DOTALL)
_FACT: Final = re.compile(
    rb'"fact":\{"commitment":"(%b)","entry":"([A-Za-z0-9+/]*={0,2})","salt":"(%b)","sequence":"([1-9]\d{0,18})"\}\}'
    % (_HASH, _HASH)
)


class RunFileBroken(Exception):
    """The file is none, or not as it was written; says where."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(f"line {line}: {sentence}")
        self.line = line


class RunFileUnknown(Exception):
    """The file is of a version that this release does not read."""


class RecordedFact(NamedTuple):
    """A fact, verified against its commitment and its place."""

    sequence: int
    entry: journal_pb2.JournalEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCommit:
    """What is left of a commit whose content cannot be read any more."""

    first_sequence: int
    commitments: tuple[bytes, ...]
    #: As RFC 3339.
    record_time: str


class RunFileWriter:
    """Gives the lines of a file one by one; the manifest comes by itself."""

    def __init__(self, run_id: str, *, facts: int, structure_only: bool = False) -> None:
        self._head = {
            "facts": str(facts),
            "format": FORMAT,
            "run_id": run_id,
            "structure_only": structure_only,
            "version": VERSION,
        }
        self._structure_only = structure_only
        self._chain = _START
        self._maker = ManifestMaker()

    def head(self) -> bytes:
        """Gives the first line."""
        return self._line("head", self._head)

    def fact(self, sequence: int, *, entry: bytes, salt: bytes, commitment: bytes) -> bytes:
        """Gives the line of the next fact."""
        self._maker.take_commitment(commitment)
        self._maker.take(journal_pb2.JournalEntry.FromString(entry))
        written = {
            "commitment": _text(commitment),
            "entry": _text(entry),
            "salt": _text(salt),
            "sequence": str(sequence),
        }
        return self._line("fact", written)

    def commit(self, commit: RecordedCommit) -> bytes:
        """Gives the line of the next commit, in a file without content."""
        for commitment in commit.commitments:
            self._maker.take_commitment(commitment)
        return self._line("commit", _commit_fields(commit))

    def end(self) -> bytes:
        """Gives the last line."""
        return self._line("manifest", _manifest_of(self._maker, structure_only=self._structure_only))

    def _line(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        body = canonical_json({kind: fields})[1:]
        self._chain = _link(self._chain, body)
        return b'{"chain":"%b",%b\n' % (b64encode(self._chain), body)


class RunFileReader:
    """Reads a file line by line; memory does not grow with it.

    The head is read at once. What `facts` gives is verified one by one; that the file is whole and its manifest true is
    known once it has given all of them.

    Raises: RunFileBroken, RunFileUnknown.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._bytes = 0
        self._chain = _START
        self._maker = ManifestMaker()
        self._commits: list[RecordedCommit] = []
        #: What the run pinned and met; empty before all facts were read.
        self.manifest: Mapping[str, Any] = {}
        head = self._read_head()
        self.run_id: str = head["run_id"]
        #: Facts that the file has.
        self.fact_count = int(head["facts"])
        #: True when only commits are left of the run.
        self.structure_only: bool = head["structure_only"]

    def facts(self) -> Iterator[RecordedFact]:
        """Gives the facts in order. Raises: RunFileBroken."""
        if self.structure_only:
            raise ValueError("a file without content has commits")
        for sequence in range(1, self.fact_count + 1):
            yield self._read_fact(sequence)
        self._read_end()

    def commits(self) -> Iterator[RecordedCommit]:
        """Gives the commits of a file without content. Raises: RunFileBroken."""
        if not self.structure_only:
            raise ValueError("a file with content has facts")
        following = 1
        while following <= self.fact_count:
            commit = self._read_commit()
            if commit.first_sequence != following:
                raise self._broken(f"begins with fact {commit.first_sequence}, and fact {following} comes next")
            following += len(commit.commitments)
            for commitment in commit.commitments:
                self._maker.take_commitment(commitment)
            yield commit
        if following != self.fact_count + 1:
            raise self._broken(f"has facts beyond the {self.fact_count} that the head says")
        self._read_end()

    def _read_head(self) -> dict[str, Any]:
        line = self._read_line()
        if line is None:
            raise RunFileBroken(1, "the file is empty")
        found = _LINE.fullmatch(line)
        head = None if found is None else _object_of(b"{" + found[2], "head")
        if head is None or head.get("format") != FORMAT:
            raise RunFileBroken(1, "this is no file of a run; `comitia run export` writes them")
        version = head.get("version")
        if type(version) is not int or version != VERSION:
            raise RunFileUnknown(
                f"the file is of version {version!r}, and this release reads version {VERSION}; use the release that "
                "wrote it"
            )
        body = self._body_of(line, "head", "the head")
        if (
            head.keys() != {"facts", "format", "run_id", "structure_only", "version"}
            or not isinstance(head["run_id"], str)
            or _RUN_ID.fullmatch(head["run_id"]) is None
            or not isinstance(head["structure_only"], bool)
            or not isinstance(head["facts"], str)
            or not re.fullmatch(r"[1-9]\d{0,18}", head["facts"])
            or canonical_json({"head": head})[1:] != body
        ):
            raise self._broken("is no head of a file")
        if int(head["facts"]) > MAX_FACTS:
            raise self._broken(f"says {head['facts']} facts; at most {MAX_FACTS} are read")
        return head

    def _read_fact(self, sequence: int) -> RecordedFact:
        body = self._body(f"fact {sequence}")
        found = _FACT.fullmatch(body)
        if found is None:
            raise self._broken(f"is not fact {sequence}")
        if int(found[4]) != sequence:
            raise self._broken(f"is fact {int(found[4])}, and fact {sequence} comes next")
        commitment, entry, salt = (self._bytes_of(found[group]) for group in (1, 2, 3))
        if sha256(salt + entry).digest() != commitment:
            raise self._broken(f"fact {sequence} is not what its commitment was made of")
        try:
            read = journal_pb2.JournalEntry.FromString(entry)
            self._maker.take_commitment(commitment)
            self._maker.take(read)
        except DecodeError as error:
            raise self._broken(f"fact {sequence} cannot be decoded") from error
        if read.WhichOneof("fact") is None:
            raise self._broken(f"fact {sequence} is of a kind that this release does not know; use a later one")
        return RecordedFact(sequence, read)

    def _read_commit(self) -> RecordedCommit:
        body = self._body("a commit")
        fields = _object_of(b"{" + body, "commit")
        try:
            if fields is None:
                raise self._broken("is no commit")
            commit = RecordedCommit(
                first_sequence=int(fields["first_sequence"]),
                commitments=tuple(self._bytes_of(str(one).encode()) for one in fields["commitments"]),
                record_time=str(fields["record_time"]),
            )
            again = canonical_json({"commit": _commit_fields(commit)})[1:]
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken("is no commit") from error
        if again != body or not commit.commitments or any(len(one) != len(_START) for one in commit.commitments):
            raise self._broken("is no commit as one is written")
        return commit

    def _read_end(self) -> None:
        body = self._body("the manifest")
        said = _object_of(b"{" + body, "manifest")
        gathered = _manifest_of(self._maker, structure_only=self.structure_only)
        if said is None or canonical_json({"manifest": gathered})[1:] != body:
            # Names of the file's own are not repeated: they may be anything.
            wrong = [] if said is None else [name for name in gathered if said.get(name) != gathered.get(name)]
            what = f"the manifest says otherwise than the facts: {', '.join(wrong)}" if wrong else "is no manifest"
            raise self._broken(what)
        if self._read_line() is not None:
            raise self._broken("the file goes on after its manifest")
        self.manifest = gathered

    def _body(self, awaited: str) -> bytes:
        """Gives the next line without its chain, once it is the one that follows."""
        line = self._read_line()
        if line is None:
            raise RunFileBroken(self._number + 1, f"the file ends where {awaited} was to come: it was cut")
        kind = "manifest" if awaited == "the manifest" else "commit" if self.structure_only else "fact"
        return self._body_of(line, kind, awaited)

    def _body_of(self, line: bytes, kind: str, awaited: str) -> bytes:
        found = _LINE.fullmatch(line)
        if found is None:
            raise self._broken(f"is not {awaited}: it was changed or cut")
        self._chain = _link(self._chain, found[2])
        if b64encode(self._chain) != found[1]:
            raise self._broken("does not follow from the line before: one was changed, added, left out or moved")
        if not found[2].startswith(b'"%b":' % kind.encode()):
            raise self._broken(f"is not {awaited}")
        return found[2]

    def _read_line(self) -> bytes | None:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return None
        self._number += 1
        self._bytes += len(line)
        if len(line) > MAX_LINE_BYTES:
            raise self._broken(f"is longer than {MAX_LINE_BYTES} bytes")
        if self._bytes > MAX_FILE_BYTES:
            raise self._broken(f"the file is longer than {MAX_FILE_BYTES} bytes")
        return line

    def _bytes_of(self, text: bytes) -> bytes:
        try:
            found = b64decode(text, validate=True)
        except ValueError as error:
            raise self._broken("holds no base64 where it should") from error
        if b64encode(found) != text:
            raise self._broken("holds base64 in another spelling than it is written")
        return found

    def _broken(self, sentence: str) -> RunFileBroken:
        return RunFileBroken(self._number, sentence)


def _manifest_of(maker: ManifestMaker, *, structure_only: bool) -> dict[str, Any]:
    if structure_only:
        return {"commitments_sha256": maker.commitments_sha256}
    return maker.manifest()


def _commit_fields(commit: RecordedCommit) -> dict[str, Any]:
    return {
        "commitments": [_text(one) for one in commit.commitments],
        "first_sequence": str(commit.first_sequence),
        "record_time": commit.record_time,
    }


def _link(chain: bytes, body: bytes) -> bytes:
    return sha256(chain + body).digest()


def _object_of(text: bytes, name: str) -> dict[str, Any] | None:
    """Reads the object under a name, None when there is none. Numbers of thousands of digits `json` refuses."""
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    inner: object = cast("dict[str, object]", read).get(name) if isinstance(read, dict) else None
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else None


def _text(content: bytes) -> str:
    return b64encode(content).decode()
