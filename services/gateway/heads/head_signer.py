"""Signs heads, statements about runs and notes of erasures with the gateway's audit key."""

from base64 import b64encode
from datetime import UTC
from pathlib import Path
from typing import Final

from comitia_sdk.audit.canonical import canonical_json, timestamp_text
from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.record.provenance import signed
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.usecases.audit_ports import Unsigned
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.signed_token import SigningKey

_ERASURE: Final = "comitia.erasure"


class Ed25519HeadSigner:
    """Implements `usecases.audit_ports.HeadSigner` and `StatementSigner`.

    What it signs of the one never reads as the other: a head is JSON of just its fields, a note of an erasure is JSON
    with a format, a statement is signed as base64url with its type.
    """

    def __init__(self, key: SigningKey, keys: AuditKeys, *, clock: Clock) -> None:
        own = {key.kid: key.private.public_key().public_bytes_raw()}
        self._key = key
        self._keys = AuditKeys({**keys.keys, **own})
        self._clock = clock

    @classmethod
    def read(cls, key_path: Path, keys_path: Path | None, *, clock: Clock) -> "Ed25519HeadSigner":
        """Reads the private key and, if there is one, the set with the public keys of earlier ones.

        Raises: KeyUnreadable, HeadMalformed.
        """
        keys = AuditKeys({}) if keys_path is None else AuditKeys.read(keys_path.read_bytes())
        return cls(SigningKey.read(key_path), keys, clock=clock)

    @property
    def keys(self) -> AuditKeys:
        """See `HeadSigner.keys`."""
        return self._keys

    def sign(self, grown: Unsigned) -> Head:
        """See `HeadSigner.sign`."""
        now = self._clock.now().astimezone(UTC)
        return Head(
            tenant_id=from_uuid(TENANT_PREFIX, grown.tenant),
            size=grown.tree.size,
            root_hash=grown.tree.root(),
            chain_hash=grown.chain_hash,
            # Whole milliseconds: what a head says of its time is good to no more than that.
            sign_time=timestamp_text(int(now.timestamp()), now.microsecond // 1000 * 1_000_000),
            key_id=self._key.kid,
        ).signed(self._key.private.sign)

    def sign_statement(self, statement: bytes) -> str:
        """See `StatementSigner.sign_statement`."""
        return signed(statement, key_id=self._key.kid, sign=self._key.private.sign)

    def sign_erasure(self, tenant_id: str) -> bytes:
        """Gives the note that a tenant is to be erased."""
        signature = b64encode(self._key.private.sign(erasure_bytes(tenant_id, self._key.kid))).decode()
        return canonical_json({**_erasure(tenant_id, self._key.kid), "signature": signature})


def erasure_bytes(tenant_id: str, key_id: str) -> bytes:
    """Gives what is signed of a note of an erasure."""
    return canonical_json(_erasure(tenant_id, key_id))


def _erasure(tenant_id: str, key_id: str) -> dict[str, str]:
    return {"format": _ERASURE, "key_id": key_id, "tenant_id": tenant_id}
