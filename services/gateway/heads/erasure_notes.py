"""Who is to be erased, noted beside the signed heads and signed as they are.

    {"format":"comitia.erasure","key_id":"audit-…","signature":"…","tenant_id":"tenant_…"}      RFC 8785 JSON

A note is an order to destroy. One that the audit key did not sign is nobody's order, whoever may write to the store.
"""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.heads.head_directory import tenant_named
from services.gateway.heads.head_signer import Ed25519HeadSigner, erasure_bytes
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class NoteStore(Protocol):
    """Where notes lie, by name."""

    async def keep_note(self, name: str, content: bytes) -> None:
        """Keeps a note for good, over one of this name; durable when it returns. Raises: Unavailable."""
        ...

    async def notes(self) -> Mapping[str, bytes]:
        """Gives all that lies there. Raises: Unavailable."""
        ...


class SignedErasureNotes:
    """Implements `usecases.tenant_ports.ErasureNotes`."""

    def __init__(self, store: NoteStore, signer: Ed25519HeadSigner) -> None:
        self._store = store
        self._signer = signer

    async def keep_erased(self, tenant: TenantId) -> None:
        """See `ErasureNotes.keep_erased`."""
        name = from_uuid(TENANT_PREFIX, tenant)
        await self._store.keep_note(name, self._signer.sign_erasure(name))

    async def erased(self) -> Sequence[TenantId]:
        """See `ErasureNotes.erased`. What is no note of this mesh is logged and passed over."""
        found: list[TenantId] = []
        for name, content in sorted((await self._store.notes()).items()):
            try:
                tenant = tenant_named(name)
            except HeadStoreDamaged:
                wrong = "it is not named after a tenant"
            else:
                wrong = self._wrong_of(name, content)
                if wrong is None:
                    found.append(tenant)
                    continue
            log.warning(
                "what lies among the notes of erasures is none, and nobody is erased for it", name=name, why=wrong
            )
        return found

    def _wrong_of(self, name: str, content: bytes) -> str | None:
        try:
            said = json.loads(content)
            key_id, signature = str(said["key_id"]), b64decode(said["signature"], validate=True)
            signed = erasure_bytes(name, key_id)
        except (ValueError, TypeError, KeyError, RecursionError):
            return "it is not signed"
        return self._signer.keys.verify_bytes(signed, key_id=key_id, signature=signature)
