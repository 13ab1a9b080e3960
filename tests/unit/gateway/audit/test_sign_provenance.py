"""What the gateway signs for the orchestrator, and what it does not."""

import pytest

from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.record.provenance import verify_provenance
from services.gateway.heads.head_signer import Ed25519HeadSigner
from services.gateway.usecases.sign_provenance import SignProvenance
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.provenance import MANIFEST, a_statement

TENANT = TenantId(SystemIds().uuid())
SIGNER = Ed25519HeadSigner(SigningKey.generate("audit-1"), AuditKeys({}), clock=FakeClock())
SIGN = SignProvenance(signer=SIGNER)


def test_a_statement_about_a_run_of_the_caller_is_signed_with_the_published_key() -> None:
    statement = a_statement(tenant_id=from_uuid("tenant", TENANT))
    found = SIGN(TENANT, statement.to_json())
    assert verify_provenance(found.jws, keys=AuditKeys.read(found.key_set), manifest=MANIFEST) == statement


def test_a_statement_about_a_run_of_another_tenant_is_refused() -> None:
    with pytest.raises(Invalid, match="another tenant"):
        SIGN(TENANT, a_statement().to_json())


@pytest.mark.parametrize("text", [b"", b"{}", b"eyJhbGciOiJFZERTQSJ9", b'{"chain_hash":""}', bytes(1_000_000)])
def test_nothing_else_is_signed(text: bytes) -> None:
    with pytest.raises(Invalid, match="no statement about a run"):
        SIGN(TENANT, text)
