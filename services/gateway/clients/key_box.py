"""Private signing keys, wrapped with the key-encryption key of the installation."""

from collections.abc import Callable

from services.gateway.domain.signing_key import INSTALLATION, signing_key_id
from services.gateway.usecases.ports import TokenSigner
from services.meshkit.crypto.keyring import data_key_context
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.grpc.signed_token import SigningKey

#: Makes what signs tokens with a key.
MakeSigner = Callable[[SigningKey], TokenSigner]


class WrappedKeyBox:
    """Implements `usecases.signing_key_ring.KeyBox`.

    Args:
        read_first: reads the key that the installation was made with.
    """

    def __init__(self, wrapper: KeyWrapper, *, make_signer: MakeSigner, read_first: Callable[[], SigningKey]) -> None:
        self._wrapper = wrapper
        self._make_signer = make_signer
        self._read_first = read_first

    async def make(self, kid: str) -> tuple[bytes, bytes]:
        """See `KeyBox.make`."""
        return await self._wrapped(SigningKey.generate(kid))

    async def first(self) -> tuple[str, bytes, bytes]:
        """See `KeyBox.first`."""
        key = self._read_first()
        return key.kid, *await self._wrapped(key)

    async def signer(self, kid: str, sealed: bytes) -> TokenSigner:
        """See `KeyBox.signer`."""
        raw = await self._wrapper.unwrap(sealed, context=_context(kid))
        return self._make_signer(SigningKey.of_private(kid, raw))

    async def _wrapped(self, key: SigningKey) -> tuple[bytes, bytes]:
        sealed = await self._wrapper.wrap(key.private.private_bytes_raw(), context=_context(key.kid))
        return key.public_bytes(), sealed


def _context(kid: str) -> bytes:
    """Names the one place in which a wrapped signing key opens; `Rewrap` wraps these as it does data keys."""
    return data_key_context(INSTALLATION, signing_key_id(kid))
