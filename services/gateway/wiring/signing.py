"""Puts together what signs access tokens. A part of the wiring."""

from dataclasses import dataclass
from functools import partial

from services.gateway.clients.key_box import WrappedKeyBox
from services.gateway.clients.key_set_file import KeySetFileWriter
from services.gateway.settings import GatewaySettings
from services.gateway.storage.signing_key_store import SqlSigningKeyStore, SqlWrappedSigningKeys
from services.gateway.usecases.guard_news import GuardNews
from services.gateway.usecases.signing_key_ring import KeyBox, SigningKeyRing
from services.meshkit.core.clock import Clock
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.grpc.identity import TokenSigner
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.sql.engine import AsyncEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """What signs access tokens."""

    ring: SigningKeyRing
    box: KeyBox
    #: Follows the key-encryption key.
    rewrap: Rewrap


async def signing(
    settings: GatewaySettings, *, maintenance: AsyncEngine, wrapper: KeyWrapper, news: GuardNews, clock: Clock
) -> Signing:
    """Opens the signing keys; the key set file holds them by then. Raises: KeyUnreadable, SealBroken."""
    box = WrappedKeyBox(
        wrapper,
        make_signer=partial(TokenSigner, clock=clock),
        read_first=partial(SigningKey.read, settings.signing_key_path),
    )
    ring = SigningKeyRing(
        store=SqlSigningKeyStore(maintenance),
        box=box,
        publisher=KeySetFileWriter(settings.jwks_path),
        clock=clock,
    )
    await ring.open()
    news.when_signing_keys_change(ring.changed)
    rewrap = Rewrap(SqlWrappedSigningKeys(maintenance), wrapper, service="gateway", clock=clock)
    return Signing(ring=ring, box=box, rewrap=rewrap)
