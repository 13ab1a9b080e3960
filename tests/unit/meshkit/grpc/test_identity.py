"""Tokens that are let in, and every way in which one is refused."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.meshkit.core.errors import Unauthenticated
from services.meshkit.core.identity import Role
from services.meshkit.grpc.identity import (
    TokenExpired,
    TokenForOthers,
    TokenVerifier,
    WorkloadRefused,
    WorkloadSigner,
    WorkloadVerifier,
)
from services.meshkit.grpc.signed_token import KeySetFile, KeyUnreadable, SigningKey, TokenMalformed, key_set
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT, MeshKeys


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(tmp_path: Path, clock: FakeClock) -> MeshKeys:
    return MeshKeys.make(tmp_path, clock=clock)


@pytest.fixture
def verifier(keys: MeshKeys, clock: FakeClock) -> TokenVerifier:
    return TokenVerifier(KeySetFile(keys.jwks_path, clock=clock), clock=clock, remember=3)


def claims(clock: FakeClock, **changed: Any) -> dict[str, Any]:
    now = int(clock.now().timestamp())
    good = {"iss": "comitia", "aud": "comitia", "sub": "key_1", "tenant": str(TENANT), "roles": ["admin"]}
    merged = {**good, "iat": now, "exp": now + 60, "jti": "1", **changed}
    return {name: value for name, value in merged.items() if value is not None}


def encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_good_token_proves_tenant_subject_roles_and_run(keys: MeshKeys, verifier: TokenVerifier) -> None:
    principal = keys.principal(Role.AUDITOR, scopes=frozenset({"runs.read"}), run_id="run_1")
    assert verifier.verify(principal.token.reveal()).principal == principal


def test_the_token_stays_out_of_the_text_of_a_principal(keys: MeshKeys) -> None:
    principal = keys.principal()
    assert principal.token.reveal() not in repr(principal)
    assert principal.token.reveal() not in f"{principal} {principal.token} {principal.token!r:>9}"


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.b.c", "....", "e30.e30.", "e30.e30.AA", "ä.ö.ü", "x" * 9000])
def test_what_is_no_token_is_malformed(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenMalformed):
        verifier.verify(token)


def test_a_token_of_another_key_with_our_key_id_is_refused(verifier: TokenVerifier, clock: FakeClock) -> None:
    with pytest.raises(TokenMalformed, match="signature"):
        verifier.verify(SigningKey.generate("access-1").sign(claims(clock)))


def test_a_token_with_an_unknown_key_id_is_refused(verifier: TokenVerifier, clock: FakeClock) -> None:
    with pytest.raises(TokenMalformed, match="does not know"):
        verifier.verify(SigningKey.generate("other").sign(claims(clock)))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ES256", "EdDSA ", None])
def test_the_header_never_chooses_the_algorithm(
    keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock, algorithm: str | None
) -> None:
    signed = f"{encode({'alg': algorithm, 'kid': 'access-1'})}.{encode(claims(clock))}"
    good = keys.access_key.private.sign(signed.encode())
    for signature in (b"", good):
        with pytest.raises(TokenMalformed):
            verifier.verify(f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_the_public_key_is_no_hmac_secret(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    signed = f"{encode({'alg': 'HS256', 'kid': 'access-1'})}.{encode(claims(clock))}"
    secret = keys.access_key.private.public_key().public_bytes_raw()
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    with pytest.raises(TokenMalformed):
        verifier.verify(f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


def test_changed_claims_break_the_signature(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    head, _, signature = keys.access_key.sign(claims(clock)).split(".")
    with pytest.raises(TokenMalformed, match="signature"):
        verifier.verify(f"{head}.{encode(claims(clock, roles=['operator']))}.{signature}")


def test_a_critical_header_is_refused(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    signed = f"{encode({'alg': 'EdDSA', 'kid': 'access-1', 'crit': ['b64'], 'b64': False})}.{encode(claims(clock))}"
    signature = base64.urlsafe_b64encode(keys.access_key.private.sign(signed.encode())).rstrip(b"=").decode()
    with pytest.raises(TokenMalformed):
        verifier.verify(f"{signed}.{signature}")


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "comitia-mesh"},
        {"aud": ["elsewhere"]},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"tenant": None},
        {"tenant": "not-a-uuid"},
        {"exp": None},
        {"iat": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"roles": "admin"},
        {"roles": [1]},
        {"scopes": "runs.read"},
        {"run": 7},
    ],
    ids=str,
)
def test_a_token_for_another_use_is_refused(
    keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock, changed: dict[str, Any]
) -> None:
    with pytest.raises(TokenForOthers):
        verifier.verify(keys.access_key.sign(claims(clock, **changed)))


def test_a_token_from_the_future_is_refused(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    now = int(clock.now().timestamp())
    with pytest.raises(TokenForOthers, match="clocks"):
        verifier.verify(keys.access_key.sign(claims(clock, iat=now + 60, exp=now + 120)))


def test_a_token_expires_even_when_it_is_remembered(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    token = keys.principal(life=timedelta(seconds=30)).token
    verifier.verify(token.reveal())
    clock.advance(seconds=36)
    with pytest.raises(TokenExpired):
        verifier.verify(token.reveal())


def test_a_role_of_a_later_release_grants_nothing(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    token = keys.access_key.sign(claims(clock, roles=["emperor", "auditor"]))
    assert verifier.verify(token).principal.roles == {Role.AUDITOR}


def test_a_key_that_is_withdrawn_refuses_tokens_that_were_remembered(
    keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock
) -> None:
    token = keys.principal().token
    verifier.verify(token.reveal())
    keys.jwks_path.write_bytes(key_set([SigningKey.generate("access-2")]))
    clock.advance(seconds=2)
    with pytest.raises(TokenMalformed):
        verifier.verify(token.reveal())


def test_a_new_key_is_found_at_once(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    new = SigningKey.generate("access-2")
    keys.jwks_path.write_bytes(key_set([keys.access_key, new]))
    assert verifier.verify(replace(keys, access_key=new).principal().token.reveal()).principal.tenant == TENANT


def test_a_broken_key_set_keeps_the_last_good_keys(keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock) -> None:
    keys.jwks_path.write_text("{")
    clock.advance(seconds=2)
    assert verifier.verify(keys.principal().token.reveal()).principal.tenant == TENANT


def test_a_missing_key_set_stops_the_start(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(KeyUnreadable):
        KeySetFile(tmp_path / "none", clock=clock)


def test_more_tokens_than_are_remembered_are_all_let_in(keys: MeshKeys, verifier: TokenVerifier) -> None:
    tokens = [keys.principal(subject=f"key_{number}").token for number in range(10)]
    for token in tokens * 2:
        verifier.verify(token.reveal())
    assert verifier.remembered <= 3


def test_tokens_that_are_no_longer_trusted_are_not_kept(
    keys: MeshKeys, verifier: TokenVerifier, clock: FakeClock
) -> None:
    for number in range(2):
        verifier.verify(keys.principal(subject=f"run_{number}").token.reveal())
    clock.advance(seconds=61)
    verifier.verify(keys.principal(subject="run_2").token.reveal())
    assert verifier.remembered == 1


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    key = SigningKey.generate("tools")
    key.write(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert SigningKey.read(tmp_path / "key").public_jwk() == key.public_jwk()


class TestWorkloads:
    @pytest.fixture
    def workloads(self, keys: MeshKeys, clock: FakeClock) -> WorkloadVerifier:
        return WorkloadVerifier(KeySetFile(keys.workload_jwks_path, clock=clock), clock=clock)

    def test_an_assertion_proves_the_name_of_a_service(self, keys: MeshKeys, workloads: WorkloadVerifier) -> None:
        assert workloads.verify(keys.workload("cost").assertion()) == "cost"

    def test_an_assertion_is_renewed_before_it_ends(
        self, keys: MeshKeys, workloads: WorkloadVerifier, clock: FakeClock
    ) -> None:
        signer = keys.workload("cost")
        first = signer.assertion()
        assert signer.assertion() == first
        for _ in range(10):
            clock.advance(seconds=200)
            assert workloads.verify(signer.assertion()) == "cost"
        assert signer.assertion() != first

    def test_neighbours_of_a_new_key_set_are_believed_at_once_and_others_no_more(
        self, keys: MeshKeys, workloads: WorkloadVerifier, clock: FakeClock
    ) -> None:
        before = keys.workload("cost").assertion()
        workloads.verify(before)
        new = SigningKey.generate("cost")
        keys.workload_jwks_path.write_bytes(key_set([new]))
        clock.advance(seconds=2)
        assert workloads.verify(WorkloadSigner("cost", new, clock=clock).assertion()) == "cost"
        with pytest.raises(WorkloadRefused):
            workloads.verify(before)

    def test_an_old_assertion_is_refused(self, keys: MeshKeys, workloads: WorkloadVerifier, clock: FakeClock) -> None:
        old = keys.workload("cost").assertion()
        workloads.verify(old)
        clock.advance(seconds=306)
        with pytest.raises(WorkloadRefused):
            workloads.verify(old)

    def test_a_service_speaks_for_itself_only(
        self, keys: MeshKeys, workloads: WorkloadVerifier, clock: FakeClock
    ) -> None:
        forged = WorkloadSigner("orchestrator", keys.workload_keys["tools"], clock=clock).assertion()
        with pytest.raises(WorkloadRefused):
            workloads.verify(forged)

    def test_an_access_token_is_no_assertion(self, keys: MeshKeys, workloads: WorkloadVerifier) -> None:
        with pytest.raises(WorkloadRefused):
            workloads.verify(keys.principal().token.reveal())

    def test_an_assertion_is_no_access_token(self, keys: MeshKeys, verifier: TokenVerifier) -> None:
        with pytest.raises(Unauthenticated):
            verifier.verify(keys.workload("cost").assertion())

    def test_an_assertion_that_lives_too_long_is_refused(
        self, keys: MeshKeys, workloads: WorkloadVerifier, clock: FakeClock
    ) -> None:
        now = int(clock.now().timestamp())
        token = keys.workload_keys["cost"].sign({"iss": "cost", "aud": "comitia-mesh", "iat": now, "exp": now + 900})
        with pytest.raises(WorkloadRefused):
            workloads.verify(token)
