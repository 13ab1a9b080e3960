"""The signed provenance of a run: one statement about it, and what it takes to check that without the mesh.

Source: RFC 7515 (JWS, compact), RFC 8037 (EdDSA with Ed25519), RFC 8785 (the form of statement and manifest).
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Final, Self, cast

from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.audit.head import AuditKeys

FORMAT: Final = "comitia.run_provenance"
VERSION: Final = 1
#: Says in the signature's header what was signed, so that nothing else that this key signs can pass for it.
TYPE: Final = "comitia-provenance+jws"
MAX_STATEMENT_BYTES: Final = 16 * 1024
_MAX_CHARACTERS: Final = 2 * MAX_STATEMENT_BYTES
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_COUNT: Final = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)
_HASHES: Final = ("commitments_sha256", "manifest_sha256")
_COUNTS: Final = ("cost_nano_usd", "facts")


class ProvenanceWrong(ValueError):
    """The statement, its signature or what it speaks of does not hold; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is signed of a run. Empty texts are left out of what is written."""

    tenant_id: str
    run_id: str
    #: SHA-256 of the manifest, hex: the digests of workflow, agents, prompts, tools and rules, and more.
    manifest_sha256: str
    #: SHA-256 over the commitments of all facts in order, hex: the head of the journal.
    commitments_sha256: str
    #: How many facts that are.
    facts: str
    #: `SUCCEEDED`, `FAILED` or `CANCELLED`.
    outcome: str
    #: Why, unless it succeeded.
    reason: str = ""
    #: What it cost, nano-USD.
    cost_nano_usd: str
    #: As proto3 JSON writes times.
    start_time: str
    end_time: str
    program: str
    #: `name@version`; empty for a session.
    workflow: str = ""
    #: The run that it was forked from.
    forked_from_run_id: str = ""
    #: `git.commit` of its metadata: what whoever started it said.
    git_commit: str = ""

    def to_json(self) -> bytes:
        """Writes it as RFC 8785 JSON."""
        said: dict[str, Any] = {one.name: value for one in fields(self) if (value := getattr(self, one.name))}
        return canonical_json({**said, "format": FORMAT, "version": VERSION})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads what `to_json` wrote, and nothing else. Raises: ProvenanceWrong."""
        if len(text) > MAX_STATEMENT_BYTES:
            raise ProvenanceWrong(f"the statement is longer than {MAX_STATEMENT_BYTES} bytes")
        found = _object(text, "the statement")
        if found.pop("format", None) != FORMAT:
            raise ProvenanceWrong("this is no statement about a run")
        version = found.pop("version", None)
        if version != VERSION:
            raise ProvenanceWrong(f"the statement is of version {version!r}, and this release reads {VERSION}")
        if any(not isinstance(value, str) for value in found.values()):
            raise ProvenanceWrong("the statement holds what is no text")
        try:
            statement = cls(**cast("dict[str, str]", found))
        except TypeError as error:
            raise ProvenanceWrong(f"the statement has other fields than it should: {error}") from error
        wrong = [name for name in _HASHES if not _SHA256.fullmatch(getattr(statement, name))]
        wrong += [name for name in _COUNTS if not _COUNT.fullmatch(getattr(statement, name))]
        if wrong:
            raise ProvenanceWrong(f"the statement's {', '.join(wrong)} cannot be read")
        if statement.to_json() != text:
            raise ProvenanceWrong("the statement is not in its canonical form")
        return statement


def signed(statement: bytes, *, key_id: str, sign: Callable[[bytes], bytes]) -> str:
    """Gives the statement with its signature, a compact JWS."""
    signed_part = f"{_encode(_header(key_id))}.{_encode(statement)}"
    return f"{signed_part}.{_encode(sign(signed_part.encode()))}"


def verify_provenance(jws: str, *, keys: AuditKeys, manifest: str) -> Statement:
    """Checks the signature, and that the manifest is the one that was signed.

    Args:
        keys: those that the caller trusts: a copy of the mesh's audit key set.
    Raises: ProvenanceWrong.
    """
    header, text, signature = _parts(jws)
    key_id = _object(header, "the header").get("kid")
    if not isinstance(key_id, str) or header != _header(key_id):
        raise ProvenanceWrong(f"the header is not that of a provenance: {TYPE}, EdDSA, a key id, and nothing else")
    wrong = keys.verify_bytes(jws.rpartition(".")[0].encode(), key_id=key_id, signature=signature)
    if wrong is not None:
        raise ProvenanceWrong(wrong)
    statement = Statement.from_json(text)
    if manifest_sha256(manifest) != statement.manifest_sha256:
        raise ProvenanceWrong("the manifest is not the one that was signed")
    said = _object(manifest.encode(), "the manifest")
    if said.get("commitments_sha256") != statement.commitments_sha256 or said.get("facts") != statement.facts:
        raise ProvenanceWrong("the manifest is of another journal than the statement")
    return statement


def read_statement(jws: str) -> Statement:
    """Reads what a provenance says, without believing it. Raises: ProvenanceWrong."""
    return Statement.from_json(_parts(jws)[1])


def check_against_file(statement: Statement, *, run_id: str, manifest: Mapping[str, Any]) -> None:
    """Holds a verified statement against a file of the run, all facts of which were read.

    Args:
        manifest: as it was gathered from the file's facts.
    Raises: ProvenanceWrong.
    """
    if run_id != statement.run_id:
        raise ProvenanceWrong(f"the file is of {run_id}, and the statement of {statement.run_id}")
    if manifest_sha256(canonical_json(manifest).decode()) != statement.manifest_sha256:
        raise ProvenanceWrong("the facts of the file are not those that the statement speaks of")


def manifest_sha256(manifest: str) -> str:
    """Gives the digest of a manifest, hex."""
    return sha256(manifest.encode()).hexdigest()


def _parts(jws: str) -> tuple[bytes, bytes, bytes]:
    """Gives header, statement and signature."""
    parts = jws.split(".")
    if len(jws) > _MAX_CHARACTERS or len(parts) != 3:
        raise ProvenanceWrong("this is no compact JWS")
    header, text, signature = (_decode(part) for part in parts)
    return header, text, signature


def _header(key_id: str) -> bytes:
    return canonical_json({"alg": "EdDSA", "kid": key_id, "typ": TYPE})


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProvenanceWrong(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise ProvenanceWrong(f"{what} is no object")
    return cast("dict[str, Any]", found)


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Decodes base64url without padding; each byte string has one spelling."""
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise ProvenanceWrong("the JWS is not base64url") from error
    if _encode(raw) != text:
        raise ProvenanceWrong("the JWS is base64url in another spelling than it is written")
    return raw
