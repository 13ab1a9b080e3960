"""Wraps data keys in the transit engine of Vault or OpenBao, so that the key-encryption key never leaves it.

Our token needs `update` on `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`, and nothing else; the key must be of a
type that takes associated data (`aes256-gcm96`, the default, or `chacha20-poly1305`).
Source: the transit engine's HTTP API, "Encrypt data" and "Decrypt data".
"""

import base64
import re
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import aiohttp

from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyServiceAway, KeyServiceSettings, SealBroken

NAME: Final = "vault"
#: What the ciphertexts of one version of the key begin with.
_MARK: Final = re.compile(rb"vault:v[0-9]{1,9}:")
_MAX_ANSWER_BYTES: Final = 64_000
_PROBE: Final = b"comitia.kek.probe.v1"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class VaultTransit:
    """A `KeyWrapper` on a transit key. Bind it with `BoundedWrapper`: it knows no time limit of its own.

    Args:
        token: gives the token for each request, so that a renewed one is taken at once.
    """

    def __init__(self, session: aiohttp.ClientSession, *, base: str, key: str, token: Callable[[], Secret]) -> None:
        self._session = session
        self._base = base
        self._key = quote(key, safe="")
        self._token = token

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.wrap`."""
        answer = await self._post("encrypt", plaintext=_text(key), associated_data=_text(context))
        wrapped = answer.get("ciphertext")
        if not isinstance(wrapped, str) or _MARK.match(wrapped.encode()) is None:
            raise KeyServiceAway(NAME, problem="its answer holds no ciphertext")
        return wrapped.encode()

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.unwrap`."""
        if _MARK.match(wrapped) is None or not wrapped.isascii():
            raise SealBroken("a wrapped data key is damaged")
        answer = await self._post("decrypt", ciphertext=wrapped.decode(), associated_data=_text(context))
        try:
            return base64.b64decode(str(answer.get("plaintext", "")), validate=True)
        except ValueError as cause:
            raise KeyServiceAway(NAME, problem="its answer holds no plaintext") from cause

    async def mark(self) -> bytes:
        """See `KeyWrapper.mark`. Wraps nothing, to see under which version, so that no right to read keys is needed."""
        found = _MARK.match(await self.wrap(b"\0", context=_PROBE))
        return b"" if found is None else found.group()

    async def _post(self, verb: str, **body: str) -> dict[str, Any]:
        headers = {"X-Vault-Token": self._token().reveal(), "X-Vault-Request": "true"}
        url = f"{self._base}/{verb}/{self._key}"
        try:
            # A redirect would carry the token, and a data key, to wherever it points.
            async with self._session.post(url, json=body, headers=headers, allow_redirects=False) as response:
                raw = await response.content.read(_MAX_ANSWER_BYTES)
                if response.status == 400 and verb == "decrypt":
                    raise SealBroken("a wrapped data key is damaged, or was wrapped elsewhere or for another tenant")
                if response.status != 200:
                    raise KeyServiceAway(NAME, status=response.status)
        except aiohttp.ClientError as cause:
            raise KeyServiceAway(NAME, problem=type(cause).__name__) from cause
        return _data(raw)


@asynccontextmanager
async def vault_transit(
    *,
    url: str,
    key: str,
    mount: str,
    token: Callable[[], Secret],
    namespace: str | None = None,
    ca_path: Path | None = None,
) -> AsyncGenerator[VaultTransit]:
    """Opens connections to a server; none is made before the first key. Leaving the block closes them.

    Args:
        url: `https://vault.internal:8200`; plain http on loopback only.
        ca_path: certificates to trust, PEM; the system's without it.
    Raises: KeyServiceSettings: the address would send data keys in the open, or the certificates cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise KeyServiceSettings("the address of Vault must be https; http is for 127.0.0.1 only", setting="vault_url")
    try:
        trust = ssl.create_default_context(cafile=ca_path)
    except OSError as cause:
        raise KeyServiceSettings(f"cannot read the certificates in {ca_path}", setting="vault_ca_path") from cause
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=8, ssl=trust),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"X-Vault-Namespace": namespace} if namespace else None,
        auto_decompress=False,
    ) as session:
        yield VaultTransit(session, base=f"{url.rstrip('/')}/v1/{mount.strip('/')}", key=key, token=token)


def token_of(*, token: Secret | None, path: Path | None) -> Callable[[], Secret]:
    """Gives what reads the token: the given one, or the file that an agent keeps fresh, read again for each request.

    Raises: KeyServiceSettings: neither is given.
    """
    if token is not None:
        return lambda: token
    if path is None:
        raise KeyServiceSettings("Vault needs vault_token or vault_token_path", setting="vault_token")

    def read() -> Secret:
        try:
            return Secret(path.read_text().strip())
        except (OSError, UnicodeDecodeError) as cause:
            raise KeyServiceAway(NAME, problem=f"cannot read its token from {path}") from cause

    return read


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _data(raw: bytes) -> dict[str, Any]:
    import msgspec

    try:
        answer = msgspec.json.decode(raw)
    except msgspec.DecodeError as cause:
        raise KeyServiceAway(NAME, problem="its answer is no JSON") from cause
    data: object = cast(dict[str, Any], answer).get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise KeyServiceAway(NAME, problem="its answer holds no data")
    return cast(dict[str, Any], data)
