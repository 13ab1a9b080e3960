"""Signed tokens of OpenID Connect issuers: strict reading, and verification with the keys of a published key set.

The algorithm comes from the key's type, never from the token alone: a symmetric algorithm is none of ours, so a public
key can never serve as a secret. Keys that a token brings or points at are refused.

Source: RFC 7515, RFC 7518, RFC 8037, RFC 8725.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from services.gateway.domain.user_errors import LoginRefused

#: Longer tokens are refused unread, bytes.
MAX_TOKEN_BYTES: Final = 8192
#: More keys of one set are not looked at.
MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
#: Of the public exponent: one as long as the modulus makes a signature take a hundred times as long.
_MAX_EXPONENT_BITS: Final = 32
#: More keys of one name are not looked at: a token may be held against each of them.
_MAX_OF_A_NAME: Final = 4
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}
_ALGORITHMS: Final = frozenset((*_RSA, "ES256", "ES384", "ES512", "EdDSA", "Ed25519"))
#: Headers that bring a key, point at one, or change what is signed.
_REFUSED_HEADERS: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})
_TYPES: Final = frozenset({"JWT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadToken:
    """A token that is well formed; nothing of it is verified."""

    algorithm: str
    #: None when the token names no key.
    kid: str | None
    claims: Mapping[str, Any]
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key of an issuer and the algorithms that it may be used with."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Key


def read_token(text: str) -> ReadToken:
    """Reads a compact token. Raises: LoginRefused."""
    if not text.isascii() or len(text) > MAX_TOKEN_BYTES:
        raise LoginRefused("too long, or not ASCII")
    signed, _, signature = text.rpartition(".")
    head, _, body = signed.partition(".")
    if not head or not body or "." in body:
        raise LoginRefused("no compact token of three parts")
    try:
        header, claims = _object(head), _object(body)
        raw_signature = _decode(signature)
    except (ValueError, RecursionError) as error:
        raise LoginRefused("no base64url of one JSON object without duplicate members") from error
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise LoginRefused("an algorithm that is not taken")
    if _REFUSED_HEADERS & header.keys():
        raise LoginRefused("a header that brings a key or changes the meaning")
    if not isinstance(kind, str) or kind.upper() not in _TYPES:
        raise LoginRefused("typ is not that of an ID token")
    if kid is not None and not isinstance(kid, str):
        raise LoginRefused("kid is no text")
    return ReadToken(algorithm=algorithm, kid=kid, claims=claims, signed=signed.encode(), signature=raw_signature)


def read_key_set(document: Mapping[str, Any]) -> tuple[IssuerKey, ...]:
    """Takes the keys of a key set that can verify an ID token; others are passed over."""
    listed: object = document.get("keys")
    if not isinstance(listed, list):
        return ()
    found = (
        _key_of(cast(dict[str, Any], jwk)) for jwk in cast(list[object], listed)[:MAX_KEYS] if isinstance(jwk, dict)
    )
    kept: dict[str | None, list[IssuerKey]] = {}
    for key in found:
        if key is not None and len(kept.setdefault(key.kid, [])) < _MAX_OF_A_NAME:
            kept[key.kid].append(key)
    return tuple(key for keys in kept.values() for key in keys)


def fitting(token: ReadToken, keys: Sequence[IssuerKey]) -> list[IssuerKey]:
    """Gives the keys that may have signed a token: of its kid and for its algorithm.

    A token without kid fits only where the issuer has one such key.
    """
    usable = [key for key in keys if token.algorithm in key.algorithms]
    if token.kid is None:
        return usable if len(usable) == 1 else []
    return [key for key in usable if key.kid == token.kid]


def is_signed_by(token: ReadToken, key: IssuerKey) -> bool:
    """Tells whether a key signed a token."""
    algorithm = JWSRegistry.algorithms[token.algorithm]
    try:
        return algorithm.verify(token.signed, token.signature, key.key)
    except (JoseError, ValueError):
        return False


def _key_of(jwk: dict[str, Any]) -> IssuerKey | None:
    kid, use, operations, only = (jwk.get(name) for name in ("kid", "use", "key_ops", "alg"))
    if use not in (None, "sig") or (kid is not None and not isinstance(kid, str)):
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    if jwk.get("kty") not in ("RSA", "EC", "OKP") or (jwk.get("kty") == "RSA" and not _is_quick_and_safe(jwk)):
        return None
    # Of a set that was published with private keys by mistake, too, only the public half is taken.
    public = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    try:
        key = JWKRegistry.import_key(public)
        algorithms = _algorithms_of(key)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if only is not None:
        algorithms = tuple(name for name in algorithms if name == only)
    return IssuerKey(kid, algorithms, key) if algorithms else None


def _is_quick_and_safe(jwk: Mapping[str, Any]) -> bool:
    """Tells whether an RSA key is long enough to be safe, and modulus and exponent short enough to be quick."""
    modulus, exponent = jwk.get("n"), jwk.get("e")
    if not isinstance(modulus, str) or not isinstance(exponent, str):
        return False
    try:
        bits, most = (int.from_bytes(_decode(number)).bit_length() for number in (modulus, exponent))
    except ValueError:
        return False
    return _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS and 2 <= most <= _MAX_EXPONENT_BITS


def _algorithms_of(key: Key) -> tuple[str, ...]:
    if isinstance(key, RSAKey):
        return _RSA
    if isinstance(key, ECKey | OKPKey):
        return _CURVES.get(key.curve_name, ())
    return ()


def _object(text: str) -> dict[str, Any]:
    value: object = json.loads(_decode(text).decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    raise ValueError("no JSON object")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _decode(text: str) -> bytes:
    """Decodes base64url without padding, strictly: one byte string has one spelling."""
    if not text or "+" in text or "/" in text or "=" in text:
        raise ValueError("not base64url")
    raw = binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True)
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise ValueError("not canonical base64url")
    return raw
