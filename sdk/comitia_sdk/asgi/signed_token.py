"""Access tokens of the mesh, read strictly: one algorithm, and one meaning for each text.

Source: RFC 7515 (JWS), RFC 8037 (Ed25519 in JOSE), and `services/meshkit/grpc`, which verifies the same tokens inside
the mesh; tests hold both against the same attacks.
"""

import binascii
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard, cast
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from comitia_sdk.asgi.principal import Principal
from comitia_sdk.secret import Secret

_ISSUER: Final = "comitia"
_AUDIENCE: Final = "comitia"
#: Longer tokens are refused unread, characters.
MAX_TOKEN_CHARACTERS: Final = 8192
#: Clocks of two machines may differ by this much, seconds.
_LEEWAY_SECONDS: Final = 5.0
#: No token of ours names a later moment (the year 9999), Unix time.
_LAST_MOMENT: Final = 253_402_300_799
#: Members of a header that bring a key, point at one, or change what the rest means.
_NOT_IN_HEADERS: Final = frozenset({"crit", "jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u"})
_BASE32: Final = "0123456789abcdefghjkmnpqrstvwxyz"


class NotValid(ValueError):
    """The text is no token that proves anything now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedToken:
    """A token that was read and is not proven yet."""

    text: str = field(repr=False)
    kid: str
    claims: dict[str, Any] = field(repr=False)
    signature: bytes = field(repr=False)

    def proven(self, key: Ed25519PublicKey, *, now: float) -> Principal:
        """Gives what the token proves, if this key signed it.

        Args:
            now: Unix time, seconds.
        Raises: NotValid.
        """
        try:
            key.verify(self.signature, self.text.rpartition(".")[0].encode())
        except InvalidSignature as error:
            raise NotValid("the signature is wrong") from error
        return _principal(self.text, self.claims, now=now)


def read_token(text: str) -> SignedToken:
    """Reads a compact JSON web token without believing it. Raises: NotValid."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise NotValid("too long")
    signed, _, signature = text.rpartition(".")
    head, _, body = signed.partition(".")
    header, claims = _object(head), _object(body)
    kid = header.get("kid")
    if header.get("alg") != "EdDSA" or not isinstance(kid, str) or _NOT_IN_HEADERS & header.keys():
        raise NotValid("not signed the way the mesh signs")
    return SignedToken(text=text, kid=kid, claims=claims, signature=decoded(signature))


def decoded(text: str) -> bytes:
    """Decodes base64url without padding; each byte string has one spelling. Raises: NotValid."""
    if not text.isascii() or "+" in text or "/" in text or "=" in text:
        raise NotValid("not base64url")
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        raw = binascii.a2b_base64(padded, strict_mode=True)
    except binascii.Error as error:
        raise NotValid("not base64url") from error
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise NotValid("not canonical base64url")
    return raw


def tenant_id(value: UUID) -> str:
    """Writes a tenant's UUID the way the API shows it, `tenant_…`. Source: the TypeID specification, version 0.3."""
    return "tenant_" + "".join(_BASE32[value.int >> shift & 31] for shift in range(125, -1, -5))


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(decoded(text).decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotValid("not JSON") from error
    if not isinstance(value, dict):
        raise NotValid("not a JSON object")
    return cast(dict[str, Any], value)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotValid("a member stands twice")
    return members


def _no_number(constant: str) -> None:
    raise NotValid(f"{constant} is no JSON")


def _principal(text: str, claims: dict[str, Any], *, now: float) -> Principal:
    issued, expires, named = claims.get("iat"), claims.get("exp"), claims.get("aud")
    if not _is_time(issued) or not _is_time(expires):
        raise NotValid("does not say when it was issued and when it ends")
    if now >= expires + _LEEWAY_SECONDS or issued > now + _LEEWAY_SECONDS:
        raise NotValid("not valid now")
    if claims.get("iss") != _ISSUER or not (named == _AUDIENCE or (isinstance(named, list) and _AUDIENCE in named)):
        raise NotValid("meant for something else")
    subject, tenant = _text(claims, "sub"), _text(claims, "tenant")
    if subject is None or tenant is None:
        raise NotValid("names no tenant or no subject")
    try:
        tenant_uuid = UUID(tenant)
    except ValueError as error:
        raise NotValid("names no tenant") from error
    return Principal(
        tenant=tenant_id(tenant_uuid),
        subject=subject,
        roles=_texts(claims, "roles") or frozenset(),
        project=_text(claims, "project"),
        scopes=_texts(claims, "scopes"),
        run_id=_text(claims, "run"),
        email=_text(claims, "email"),
        expires=float(expires),
        token=Secret(text),
    )


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LAST_MOMENT


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or isinstance(value, str):
        return value
    raise NotValid(f"the claim {name} is no text")


def _texts(claims: dict[str, Any], name: str) -> frozenset[str] | None:
    value = claims.get(name)
    if value is None:
        return None
    items = cast(list[object], value) if isinstance(value, list) else [None]
    if not all(isinstance(item, str) for item in items):
        raise NotValid(f"the claim {name} is no list of texts")
    return frozenset(cast(list[str], items))
