"""Compact JSON web tokens signed with Ed25519. One algorithm, fixed here: a token's header never chooses it.

Source: RFC 7515 (JWS), RFC 8037 (Ed25519 in JOSE, `alg` EdDSA).
"""

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, Unauthenticated
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Longer tokens are refused unread, characters.
MAX_TOKEN_CHARACTERS: Final = 8192
#: How often a key set file is looked at when every key is known, seconds.
_LOOK_SECONDS: Final = 1.0

log = logger(__name__)


class TokenMalformed(Unauthenticated):
    """The token is no token of ours: wrong shape, key, algorithm or signature. Get a new one."""

    reason = "TOKEN_INVALID"


class KeyUnreadable(Internal):
    """A key file is missing or no key of ours. Let the launcher make it, or check the mounted secret."""

    reason = "KEY_UNREADABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private Ed25519 key and the id under which its public half is published."""

    kid: str
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls, kid: str) -> "SigningKey":
        """Makes a new key."""
        return cls(kid=kid, private=Ed25519PrivateKey.generate())

    @classmethod
    def of_private(cls, kid: str, raw: bytes) -> "SigningKey":
        """Makes it of the 32 bytes of the private half."""
        return cls(kid=kid, private=Ed25519PrivateKey.from_private_bytes(raw))

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Reads a key that `write` wrote: a private JWK.

        Raises: KeyUnreadable.
        """
        try:
            jwk: dict[str, str] = json.loads(path.read_bytes())
            return cls(kid=jwk["kid"], private=Ed25519PrivateKey.from_private_bytes(_decode(jwk["d"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KeyUnreadable(f"{path} holds no Ed25519 key as a private JWK", path=path) from error

    def write(self, path: Path) -> None:
        """Writes the key as a private JWK that only this user may read."""
        jwk = {**self.public_jwk(), "d": _encode(self.private.private_bytes_raw())}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(jwk, file)

    def public_jwk(self) -> dict[str, str]:
        """Gives the public half, for a key set."""
        return public_jwk(self.kid, self.public_bytes())

    def public_bytes(self) -> bytes:
        """Gives the 32 bytes of the public half."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, claims: Mapping[str, object]) -> str:
        """Makes a token with these claims."""
        header = {"alg": "EdDSA", "kid": self.kid, "typ": "JWT"}
        signed = f"{_encode_json(header)}.{_encode_json(claims)}"
        return f"{signed}.{_encode(self.private.sign(signed.encode()))}"


def key_set(keys: Iterable[SigningKey]) -> bytes:
    """Writes the public halves as a JSON web key set."""
    return json.dumps({"keys": [key.public_jwk() for key in keys]}).encode()


def public_jwk(kid: str, public: bytes) -> dict[str, str]:
    """Writes a public key, for a key set."""
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": _encode(public)}


def write_key_set(path: Path, keys: Mapping[str, bytes]) -> bool:
    """Replaces a key set file in one step, so that no reader sees half of it; False when it holds these keys already.

    Args:
        keys: public keys by their ids.
    Raises: OSError.
    """
    written = json.dumps({"keys": [public_jwk(kid, public) for kid, public in sorted(keys.items())]}).encode()
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if _public_bytes(path.read_bytes()) == dict(keys):
            return False
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(written)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return True


class KeySetFile:
    """Public keys from a file, read again when the file changes.

    Raises: KeyUnreadable: the file cannot be read at the start. Later the last good keys stay in use.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._looked = clock.monotonic()
        self._keys: dict[str, Ed25519PublicKey] = {}
        #: Grows with each change, so that what was verified with an older set can be forgotten.
        self.generation = 0
        self._load()

    def refresh(self, *, now: bool = False) -> None:
        """Looks whether the file changed, at most once a second unless `now`."""
        moment = self._clock.monotonic()
        if not now and moment - self._looked < _LOOK_SECONDS:
            return
        self._looked = moment
        try:
            self._load()
        except KeyUnreadable as error:
            log.error("key set not readable; the last good keys stay in use", path=str(self._path), error=repr(error))

    def key(self, kid: str) -> Ed25519PublicKey | None:
        """Gives the key with this id, looking at the file again before answering None."""
        if kid not in self._keys:
            self.refresh(now=True)
        found = self._keys.get(kid)
        if found is None:
            metrics.UNKNOWN_SIGNING_KEYS.inc()
        return found

    def _load(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return
            self._keys = _read_key_set(self._path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeyUnreadable(f"{self._path} holds no key set", path=self._path) from error
        self._stamp = stamp
        self.generation += 1


def verify(token: str, keys: KeySetFile) -> tuple[str, dict[str, Any]]:
    """Checks the signature of a token and gives its key id and claims. Claims are not judged here.

    Raises: TokenMalformed.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenMalformed("the token is too long")
    signed, _, signature = token.rpartition(".")
    head, _, body = signed.partition(".")
    try:
        header = _decode_json(head)
        claims = _decode_json(body)
        raw_signature = _decode(signature)
    except ValueError as error:
        raise TokenMalformed("the token is not a signed JSON web token") from error
    kid = header.get("kid")
    if header.get("alg") != "EdDSA" or "crit" in header or not isinstance(kid, str):
        raise TokenMalformed("the token is not signed the way this mesh signs (EdDSA with a key id)")
    key = keys.key(kid)
    if key is None:
        raise TokenMalformed("the token is signed with a key that this mesh does not know")
    try:
        key.verify(raw_signature, signed.encode())
    except InvalidSignature as error:
        raise TokenMalformed("the signature of the token is wrong") from error
    return kid, claims


def _read_key_set(raw: bytes) -> dict[str, Ed25519PublicKey]:
    keys: dict[str, Ed25519PublicKey] = {}
    for jwk in json.loads(raw)["keys"]:
        if jwk.get("kty") == "OKP" and jwk.get("crv") == "Ed25519" and jwk.get("use", "sig") == "sig":
            keys[str(jwk["kid"])] = Ed25519PublicKey.from_public_bytes(_decode(jwk["x"]))
    return keys


def _public_bytes(raw: bytes) -> dict[str, bytes]:
    return {kid: key.public_bytes_raw() for kid, key in _read_key_set(raw).items()}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _encode_json(value: object) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _decode(text: str) -> bytes:
    """Decodes base64url without padding, strictly: one byte string has one spelling."""
    if not text.isascii() or "+" in text or "/" in text or "=" in text:
        raise ValueError("not base64url")
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    raw = binascii.a2b_base64(padded, strict_mode=True)
    if _encode(raw) != text:
        raise ValueError("not canonical base64url")
    return raw


def _decode_json(text: str) -> dict[str, Any]:
    """Reads an object strictly: one text has one meaning, whoever reads it."""
    try:
        value = json.loads(_decode(text).decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    raise ValueError("not a JSON object")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
