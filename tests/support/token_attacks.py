"""Tokens that must let nobody in: forged, twisted, stale, or signed by us with claims that make no sense."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.meshkit.grpc.signed_token import SigningKey

_HOUR: Final = 3600
Json = Mapping[str, Any]


def encoded(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _text(value: Json | str) -> str:
    return encoded((value if isinstance(value, str) else json.dumps(value)).encode())


def signed(key: SigningKey, header: Json | str, claims: Json | str) -> str:
    """Signs any header and claims, JSON or text that only looks like it."""
    body = f"{_text(header)}.{_text(claims)}"
    return f"{body}.{encoded(key.private.sign(body.encode()))}"


def _by_hmac(secret: bytes, header: Json, claims: Json) -> str:
    body = f"{_text(header)}.{_text(claims)}"
    return f"{body}.{encoded(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"


def _by_rsa(header: Json, claims: Json) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    body = f"{_text(header)}.{_text(claims)}"
    return f"{body}.{encoded(key.sign(body.encode(), PKCS1v15(), SHA256()))}"


def forged(key: SigningKey, claims: Json) -> dict[str, str]:
    """Gives tokens that the mesh never signed, by what is wrong with them.

    Args:
        key: that of the mesh; its private half only makes the good token that the others are made of.
        claims: good ones.
    """
    header = {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}
    good = signed(key, header, claims)
    head, body, signature = good.split(".")
    mine = SigningKey.generate(key.kid)
    public = key.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = mine.public_jwk()
    admin = _text({**claims, "roles": ["admin", "operator"]})
    nested = "[" * 3000
    digits = '{"alg":"EdDSA","kid":' + "9" * 4000 + "}"
    return {
        "alg none": f"{_text({'alg': 'none', 'kid': key.kid})}.{body}.",
        "alg none, signature kept": f"{_text({'alg': 'none', 'kid': key.kid})}.{body}.{signature}",
        "alg None": f"{_text({'alg': 'None', 'kid': key.kid})}.{body}.",
        "no alg": f"{_text({'kid': key.kid})}.{body}.{signature}",
        "alg is a list": f"{_text({'alg': ['EdDSA'], 'kid': key.kid})}.{body}.{signature}",
        "HS256 with our public key": _by_hmac(key.public_bytes(), {**header, "alg": "HS256"}, claims),
        "HS256 with our public key as PEM": _by_hmac(pem, {**header, "alg": "HS256"}, claims),
        "HS256 with the key set": _by_hmac(json.dumps(key.public_jwk()).encode(), {**header, "alg": "HS256"}, claims),
        "HS256 with nothing": _by_hmac(b"", {**header, "alg": "HS256"}, claims),
        "RS256": _by_rsa({**header, "alg": "RS256"}, claims),
        "another key under our kid": signed(mine, header, claims),
        "unknown kid": signed(mine, {**header, "kid": "mesh-ffffffff"}, claims),
        "kid that is a path": signed(mine, {**header, "kid": "../../../../dev/null"}, claims),
        "kid that is SQL": signed(mine, {**header, "kid": "x' UNION SELECT 'key' --"}, claims),
        "kid that is a number": signed(mine, {**header, "kid": 1}, claims),
        "no kid": signed(mine, {"alg": "EdDSA", "typ": "JWT"}, claims),
        "a key in the header": signed(mine, {**header, "jwk": jwk}, claims),
        "a key in the header and no kid": signed(mine, {"alg": "EdDSA", "jwk": jwk}, claims),
        "jku": signed(mine, {**header, "jku": "https://evil.example/jwks.json"}, claims),
        "x5u": signed(mine, {**header, "x5u": "https://evil.example/x.pem"}, claims),
        "x5c": signed(mine, {**header, "x5c": [encoded(mine.public_bytes())]}, claims),
        "changed claims": f"{head}.{admin}.{signature}",
        "changed header": f"{_text({**header, 'typ': 'at+jwt'})}.{body}.{signature}",
        "empty signature": f"{head}.{body}.",
        "signature of zeroes": f"{head}.{body}.{encoded(bytes(64))}",
        "short signature": f"{head}.{body}.{encoded(b'short')}",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "five parts": f"{head}..{body}.{signature}.",
        "no parts": "....",
        "padding": f"{head}=.{body}.{signature}",
        "base64 of the other alphabet": _other_alphabet(good),
        "base64 that is not canonical": f"{head}.{body}.{_not_canonical(signature)}",
        "a space inside": f"{head}. {body}.{signature}",
        "a tab inside": f"{head}.{body}\t.{signature}",
        "no JSON": f"{encoded(b'hello')}.{body}.{signature}",
        "JSON that is a list": f"{_text('[]')}.{body}.{signature}",
        "bytes that are no text": f"{encoded(bytes([0xFF, 0xFE]))}.{body}.{signature}",
        "deep header": f"{_text(nested)}.{body}.{signature}",
        "deep claims": f"{head}.{_text(nested)}.{signature}",
        "a number of 4,000 digits": f"{_text(digits)}.{body}.{signature}",
        "9 KB of nothing": "x" * 9000,
        "a token of 9 KB": signed(mine, header, {**claims, "pad": "x" * 7000}),
        "two tokens": f"{good},{good}",
        "the token of nobody": "null",
    }


def _other_alphabet(token: str) -> str:
    """Spells a token with `+` and `/`, or appends one of them where it needed neither."""
    other = token.replace("-", "+").replace("_", "/")
    return other if other != token else f"{token}+"


def _not_canonical(signature: str) -> str:
    """Spells the same bytes another way: the bits that nobody reads are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    return signature[:-1] + alphabet[last ^ 1]


def senseless(key: SigningKey, claims: Json, *, now: float | None = None) -> dict[str, str]:
    """Gives tokens that we did sign and that prove nothing: claims are missing, stale or of another type."""
    header = {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}
    moment = int(time.time() if now is None else now)
    whole = json.dumps(claims)

    def of(**changed: Any) -> str:
        return signed(key, header, {**claims, **changed})

    def without(name: str) -> str:
        return signed(key, header, {kept: value for kept, value in claims.items() if kept != name})

    made: dict[str, str] = {
        "crit": signed(key, {**header, "crit": ["exp"]}, claims),
        "duplicate kid": signed(key, '{"kid": "x", ' + json.dumps(header)[1:], claims),
        "duplicate alg": signed(key, '{"alg": "none", ' + json.dumps(header)[1:], claims),
        "duplicate tenant": signed(key, header, whole[:-1] + ', "tenant": "01900000-0000-7000-8000-00000000dead"}'),
        "duplicate roles": signed(key, header, '{"roles": ["admin"], ' + whole[1:]),
        "expired for an hour": of(iat=moment - 2 * _HOUR, exp=moment - _HOUR),
        "expired at the beginning of time": of(exp=0),
        "from the future": of(iat=moment + _HOUR, exp=moment + 2 * _HOUR),
        "expiry that is a text": of(exp=str(moment + _HOUR)),
        "expiry that is true": of(exp=True),
        "expiry that is null": of(exp=None),
        "expiry that is no number": signed(key, header, whole[:-1].replace('"exp"', '"_"') + ', "exp": NaN}'),
        "endless expiry": signed(key, header, whole[:-1].replace('"exp"', '"_"') + ', "exp": Infinity}'),
        "expiry of 400 digits": signed(key, header, whole[:-1].replace('"exp"', '"_"') + f', "exp": {"9" * 400}}}'),
        "expiry beyond all floats": signed(key, header, whole[:-1].replace('"exp"', '"_"') + ', "exp": 1e999}'),
        "issue time that is a list": of(iat=[moment]),
        "another issuer": of(iss="evil"),
        "an issuer that is a list": of(iss=["comitia"]),
        "another audience": of(aud="comitia-mesh"),
        "an audience list without us": of(aud=["evil", "comitia-mesh"]),
        "an empty audience list": of(aud=[]),
        "an audience that is a number": of(aud=1),
        "an audience that is an object": of(aud={"comitia": True}),
        "a subject that is a number": of(sub=1),
        "a tenant that is a list": of(tenant=[claims["tenant"]]),
        "a tenant that is no UUID": of(tenant="*"),
        "a tenant that is SQL": of(tenant="' OR 1=1 --"),
        "roles that are a text": of(roles="admin"),
        "roles that are numbers": of(roles=[1]),
        "scopes that are a text": of(scopes="identity.read"),
        "a run that is a number": of(run=1),
        "claims that are a list": signed(key, header, "[]"),
        "claims with deep nesting": signed(key, header, '{"a":' + "[" * 2500 + "]" * 2500 + "}"),
    }
    made.update({f"no {name}": without(name) for name in ("iss", "aud", "sub", "tenant", "iat", "exp")})
    return made


#: Changes to the header line that carries a good token, and that make it no good one.
LINES: Final[Mapping[str, Callable[[str], str]]] = {
    "no scheme": lambda token: token,
    "another scheme": lambda token: f"Basic {token}",
    "an empty token": lambda token: "Bearer ",
    "a quoted token": lambda token: f'Bearer "{token}"',
    "two in one line": lambda token: f"Bearer {token}, Bearer {token}",
    "a comma at the end": lambda token: f"Bearer {token},",
}
