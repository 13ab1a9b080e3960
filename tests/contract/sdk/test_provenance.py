"""The provenance of a run for users: kept as a file, checked without a mesh."""

import json
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.record.provenance import manifest_sha256, signed
from comitia_sdk.record.run_file import RunFileWriter
from services.meshkit.crypto.commitments import commit, new_salts
from tests.contract.sdk.conftest import Comitia
from tests.support.provenance import MANIFEST, a_statement
from tests.support.sessions import RUN_ID, World, a_start, play

KEY: Final = Ed25519PrivateKey.generate()
PUBLIC: Final = AuditKeys({"audit-1": KEY.public_key().public_bytes_raw()})


def kept(path: Path, *, manifest: str = MANIFEST, **said: str) -> str:
    """Writes what `--out` writes."""
    statement = a_statement(**said).to_json()
    answer = {
        "jws": signed(statement, key_id="audit-1", sign=KEY.sign),
        "manifest": manifest,
        "key_set": PUBLIC.to_json().decode(),
    }
    path.write_text(json.dumps(answer))
    return str(path)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """The keys that the user trusts."""
    path = tmp_path / "audit_jwks.json"
    path.write_bytes(PUBLIC.to_json())
    return str(path)


def test_what_was_kept_is_shown_and_says_whether_it_was_checked(comitia: Comitia, tmp_path: Path, keys: str) -> None:
    file = kept(tmp_path / "p.json")
    assert "not checked" in comitia("run", "provenance", file).out
    assert "came along with it" in comitia("run", "provenance", file, "--verify").out
    shown = comitia("run", "provenance", file, "--verify", "--keys", keys).out
    assert "a key that you trust" in shown
    assert "0123456789abcdef0123456789abcdef01234567" in shown
    said = json.loads(comitia("run", "provenance", file, "-o", "json").out)
    assert said["statement"]["outcome"] == "SUCCEEDED"


def test_what_was_changed_or_signed_by_somebody_else_ends_with_1(comitia: Comitia, tmp_path: Path) -> None:
    changed = kept(tmp_path / "p.json", manifest=MANIFEST.replace("42", "43"))
    assert "the manifest is not the one" in comitia("run", "provenance", changed, "--verify", code=1).err
    other = tmp_path / "other.json"
    other.write_bytes(AuditKeys({"audit-2": bytes(32)}).to_json())
    told = comitia("run", "provenance", kept(tmp_path / "q.json"), "--keys", str(other), code=1).err
    assert "not trusted" in told


def test_it_is_held_against_every_fact_of_an_exported_run(comitia: Comitia, tmp_path: Path) -> None:
    entries = [entry.SerializeToString() for entry in play(a_start(max_rounds=1), World())]
    writer = RunFileWriter(RUN_ID, facts=len(entries))
    lines = [writer.head()]
    for sequence, (entry, salt) in enumerate(zip(entries, new_salts(len(entries)), strict=True), 1):
        lines.append(writer.fact(sequence, entry=entry, salt=salt, commitment=commit(salt, entry)))
    lines.append(writer.end())
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(lines))
    said = json.loads(lines[-1])["manifest"]
    manifest = canonical_json(said).decode()
    good = kept(
        tmp_path / "p.json",
        manifest=manifest,
        run_id=RUN_ID,
        manifest_sha256=manifest_sha256(manifest),
        commitments_sha256=said["commitments_sha256"],
        facts=said["facts"],
    )
    assert "holds" in comitia("run", "provenance", good, "--run-file", str(file)).out
    told = comitia("run", "provenance", kept(tmp_path / "q.json", run_id=RUN_ID), "--run-file", str(file), code=1).err
    assert "not those that the statement speaks of" in told


@pytest.mark.parametrize(
    ("text", "code"),
    [("", 2), ("[]", 1), ("{", 2), ('{"jws": 7}', 2), ('{"more": "x"}', 2), ("{}", 1), ('{"jws": "a.b.c"}', 1)],
)
def test_a_file_that_is_none_is_one_clear_error(comitia: Comitia, tmp_path: Path, text: str, code: int) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    assert "provenance" in comitia("run", "provenance", str(path), code=code).err


def test_a_file_that_is_not_there_is_one_clear_error(comitia: Comitia, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert comitia("run", "provenance", missing, code=2).err.endswith("No such file or directory")
    file = kept(tmp_path / "p.json")
    assert comitia("run", "provenance", file, "--keys", missing, code=2).err.endswith("No such file or directory")
    assert comitia("run", "provenance", file, "--run-file", missing, code=2).err.endswith("No such file or directory")
    assert "key set" in comitia("run", "provenance", file, "--keys", file, code=2).err
