"""Signed heads: so many entries, this root, this chain. And the public keys that verify them.

Source: RFC 8032 (Ed25519), RFC 8037 (its keys as JSON Web Keys).
"""

import json
import re
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

from comitia_sdk.audit.canonical import canonical_json

_HASH_BYTES: Final = 32
_FIELDS: Final = frozenset({"chain_hash", "key_id", "root_hash", "sign_time", "signature", "size", "tenant_id"})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6}|\.\d{9})?Z", re.ASCII)
_SIZE: Final = re.compile(r"[1-9]\d{0,18}", re.ASCII)


class HeadMalformed(ValueError):
    """These values are no head, or no key set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head of a tenant's tree."""

    #: `tenant_…`.
    tenant_id: str
    #: How many entries it covers, > 0.
    size: int
    root_hash: bytes
    #: Chain hash of the last of them.
    chain_hash: bytes
    #: When it was signed, as proto3 JSON writes times.
    sign_time: str
    #: Id of the key in the audit key set.
    key_id: str
    #: Ed25519 over `signed_bytes`; empty before it is signed.
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """Gives what is signed: RFC 8785 JSON of everything but the signature."""
        return canonical_json(self._fields())

    def signed(self, sign: Callable[[bytes], bytes]) -> "Head":
        """Gives the head with its signature."""
        return replace(self, signature=sign(self.signed_bytes()))

    def to_json(self) -> bytes:
        """Writes the head as RFC 8785 JSON, signature included."""
        return canonical_json({**self._fields(), "signature": b64encode(self.signature).decode()})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads what `to_json` wrote, and nothing else. Raises: HeadMalformed."""
        try:
            found: object = json.loads(text)
            head = cls._of(cast(dict[str, Any], found))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HeadMalformed(f"no signed head: {error}") from error
        if head.to_json() != text:
            raise HeadMalformed("no signed head in canonical form")
        return head

    @classmethod
    def _of(cls, found: Mapping[str, str]) -> Self:
        if frozenset(found) != _FIELDS or not _SIZE.fullmatch(found["size"]) or not _TIME.fullmatch(found["sign_time"]):
            raise HeadMalformed("fields are missing or wrong")
        root, chain = (b64decode(found[name], validate=True) for name in ("root_hash", "chain_hash"))
        if len(root) != _HASH_BYTES or len(chain) != _HASH_BYTES:
            raise HeadMalformed("a hash is not of 32 bytes")
        return cls(
            tenant_id=found["tenant_id"],
            size=int(found["size"]),
            root_hash=root,
            chain_hash=chain,
            sign_time=found["sign_time"],
            key_id=found["key_id"],
            signature=b64decode(found["signature"], validate=True),
        )

    def _fields(self) -> dict[str, str]:
        return {
            "chain_hash": b64encode(self.chain_hash).decode(),
            "key_id": self.key_id,
            "root_hash": b64encode(self.root_hash).decode(),
            "sign_time": self.sign_time,
            "size": str(self.size),
            "tenant_id": self.tenant_id,
        }


class AuditKeys:
    """Public Ed25519 keys by their id."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self.keys = dict(keys)

    @classmethod
    def read(cls, key_set: str | bytes) -> Self:
        """Reads a JSON Web Key Set; keys of other kinds are left out. Raises: HeadMalformed."""
        try:
            found = json.loads(key_set)["keys"]
            keys = [(str(key["kid"]), _decode(key["x"])) for key in found if key.get("crv") == "Ed25519"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HeadMalformed(f"no JSON Web Key Set: {error}") from error
        if len(dict(keys)) != len(keys):
            raise HeadMalformed("two keys have one id")
        return cls(dict(keys))

    def to_json(self, only: Iterable[str] | None = None) -> bytes:
        """Writes them as a key set in RFC 8785 JSON, by id.

        Args:
            only: ids to write; None for all.
        """
        wanted = self.keys.keys() if only is None else set(only) & self.keys.keys()
        listed = [
            {"alg": "EdDSA", "crv": "Ed25519", "kid": kid, "kty": "OKP", "use": "sig", "x": _encode(self.keys[kid])}
            for kid in sorted(wanted)
        ]
        return canonical_json({"keys": listed})

    def verify(self, head: Head) -> str | None:
        """Gives None when one of these keys signed the head, else a sentence that says what is wrong."""
        return self.verify_bytes(head.signed_bytes(), key_id=head.key_id, signature=head.signature)

    def verify_bytes(self, signed: bytes, *, key_id: str, signature: bytes) -> str | None:
        """Gives None when this one of the keys signed these bytes, else a sentence that says what is wrong."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        raw = self.keys.get(key_id)
        if raw is None:
            return f"it is signed with the key {key_id!r}, which is not trusted"
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return f"the signature of the key {key_id!r} is wrong"
        return None


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != _HASH_BYTES or _encode(raw) != text:
        raise HeadMalformed("a key is not of 32 bytes")
    return raw
