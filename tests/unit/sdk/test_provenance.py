"""Checking the provenance of a run without a mesh: whatever was changed is found."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws as joserfc_jws
from joserfc.jwk import OKPKey

from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.record.provenance import ProvenanceWrong, Statement, check_against_file, signed, verify_provenance
from tests.support.provenance import MANIFEST, a_statement

KEY = Ed25519PrivateKey.generate()
KEYS = AuditKeys({"audit-1": KEY.public_key().public_bytes_raw()})


def a_jws(text: bytes | None = None) -> str:
    return signed(a_statement().to_json() if text is None else text, key_id="audit-1", sign=KEY.sign)


def encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_header(**fields: object) -> str:
    header = {"alg": "EdDSA", "kid": "audit-1", "typ": "comitia-provenance+jws", **fields}
    part = f"{encoded(canonical_json(header))}.{encoded(a_statement().to_json())}"
    return f"{part}.{encoded(KEY.sign(part.encode()))}"


def test_a_provenance_that_nobody_changed_holds() -> None:
    assert verify_provenance(a_jws(), keys=KEYS, manifest=MANIFEST) == a_statement()


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 gives it another name
def test_any_library_that_knows_jws_checks_the_signature() -> None:
    public = OKPKey.import_key(json.loads(KEYS.to_json())["keys"][0])
    read = joserfc_jws.deserialize_compact(a_jws(), public, algorithms=["EdDSA"])
    assert read.payload == a_statement().to_json()


def test_every_character_of_it_counts() -> None:
    whole = a_jws()
    for place in range(0, len(whole), 7):
        other = "A" if whole[place] != "A" else "B"
        with pytest.raises(ProvenanceWrong):
            verify_provenance(whole[:place] + other + whole[place + 1 :], keys=KEYS, manifest=MANIFEST)


@pytest.mark.parametrize(
    "manifest",
    ["", "{}", MANIFEST + " ", MANIFEST.replace("42", "43")],
)
def test_another_manifest_is_found(manifest: str) -> None:
    with pytest.raises(ProvenanceWrong, match="manifest"):
        verify_provenance(a_jws(), keys=KEYS, manifest=manifest)


def test_a_manifest_of_another_journal_is_found_though_it_was_signed() -> None:
    jws = a_jws(a_statement(facts="41").to_json())
    with pytest.raises(ProvenanceWrong, match="another journal"):
        verify_provenance(jws, keys=KEYS, manifest=MANIFEST)


def test_a_key_that_is_not_trusted_proves_nothing() -> None:
    with pytest.raises(ProvenanceWrong, match="not trusted"):
        verify_provenance(a_jws(), keys=AuditKeys({}), manifest=MANIFEST)
    other = AuditKeys({"audit-1": Ed25519PrivateKey.generate().public_key().public_bytes_raw()})
    with pytest.raises(ProvenanceWrong, match="signature"):
        verify_provenance(a_jws(), keys=other, manifest=MANIFEST)


@pytest.mark.parametrize(
    "jws",
    [
        with_header(alg="none"),
        with_header(typ="JWT"),
        with_header(crit=["exp"]),
        with_header(jwk={}),
        with_header(kid=7),
        "",
        "a.b",
        "a.b.c.d",
        "é.é.é",
        a_jws() + "=",
        "." * 40_000,
    ],
)
def test_another_header_or_no_jws_at_all_is_refused(jws: str) -> None:
    with pytest.raises(ProvenanceWrong):
        verify_provenance(jws, keys=KEYS, manifest=MANIFEST)


def test_a_signed_head_of_the_audit_trail_is_no_provenance() -> None:
    head = Head(
        tenant_id="tenant_x", size=1, root_hash=bytes(32), chain_hash=bytes(32), sign_time="2026-01-01T00:00:00Z",
        key_id="audit-1",
    ).signed(KEY.sign)  # fmt: skip
    header, statement, _ = a_jws().split(".")
    with pytest.raises(ProvenanceWrong, match="signature"):
        verify_provenance(f"{header}.{statement}.{encoded(head.signature)}", keys=KEYS, manifest=MANIFEST)


def _object(statement: Statement) -> dict[str, object]:
    return json.loads(statement.to_json())


@pytest.mark.parametrize(
    "change",
    [
        lambda said: {**said, "version": 2},
        lambda said: {**said, "format": "other"},
        lambda said: {**said, "more": "x"},
        lambda said: {**said, "facts": 42},
        lambda said: {**said, "facts": "-1"},
        lambda said: {**said, "cost_nano_usd": "1e3"},
        lambda said: {**said, "commitments_sha256": "x"},
        lambda said: {**said, "reason": ""},
        lambda said: {name: value for name, value in said.items() if name != "outcome"},
        lambda said: {**said, "git_commit": "x" * 20_000},
    ],
)
def test_a_statement_of_another_shape_is_refused_though_it_was_signed(
    change: Callable[[dict[str, object]], dict[str, object]],
) -> None:
    text = canonical_json(change(_object(a_statement())))
    with pytest.raises(ProvenanceWrong):
        verify_provenance(a_jws(text), keys=KEYS, manifest=MANIFEST)


def test_a_statement_in_another_spelling_is_refused() -> None:
    for text in (b"[]", b"{", json.dumps(_object(a_statement())).encode()):
        with pytest.raises(ProvenanceWrong):
            Statement.from_json(text)


def test_the_statement_reads_as_it_was_written() -> None:
    bare = replace(a_statement(), git_commit="")
    assert Statement.from_json(bare.to_json()) == bare
    assert b"git_commit" not in bare.to_json()
    assert b"0123456789abcdef" in urlsafe_b64decode(a_jws().split(".")[1] + "==")


def test_a_file_of_another_run_or_of_other_facts_is_found() -> None:
    manifest = json.loads(MANIFEST)
    check_against_file(a_statement(), run_id=a_statement().run_id, manifest=manifest)
    with pytest.raises(ProvenanceWrong, match="the file is of run_other"):
        check_against_file(a_statement(), run_id="run_other", manifest=manifest)
    with pytest.raises(ProvenanceWrong, match="facts of the file"):
        check_against_file(a_statement(), run_id=a_statement().run_id, manifest={**manifest, "facts": "43"})
