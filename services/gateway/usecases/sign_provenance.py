"""Signs what the orchestrator's record says of a finished run."""

from dataclasses import dataclass

from comitia_sdk.record.provenance import ProvenanceWrong, Statement
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.usecases.audit_ports import StatementSigner
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement:
    """A statement and what checks it."""

    #: Compact JWS.
    jws: str
    #: JSON Web Key Set.
    key_set: str


class SignProvenance:
    """Signs statements about runs of the caller's tenant and nothing else: the key also signs heads."""

    def __init__(self, *, signer: StatementSigner) -> None:
        self._signer = signer

    def __call__(self, tenant: TenantId, statement: bytes) -> SignedStatement:
        """Raises: Invalid."""
        try:
            read = Statement.from_json(statement)
        except ProvenanceWrong as error:
            raise Invalid("statement", f"is no statement about a run: {error}") from error
        if read.tenant_id != from_uuid(TENANT_PREFIX, tenant):
            raise Invalid("statement", "is about a run of another tenant")
        return SignedStatement(jws=self._signer.sign_statement(statement), key_set=self._signer.keys.to_json().decode())
