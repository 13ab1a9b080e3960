"""Puts together keys, tokens and what other services are told of them. A part of the wiring."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from secrets import token_bytes

from services.gateway.clients.key_box import WrappedKeyBox
from services.gateway.clients.key_set_file import KeySetFileWriter
from services.gateway.settings import GatewaySettings
from services.gateway.storage.api_key_reader import SqlApiKeyReader
from services.gateway.storage.grants import SqlGrants
from services.gateway.storage.identity_directory import SqlIdentityDirectory
from services.gateway.storage.identity_work import SqlBeginIdentityWork
from services.gateway.storage.key_uses import SqlKeyUses
from services.gateway.storage.service_account_reader import SqlServiceAccountReader
from services.gateway.storage.signing_key_store import SqlSigningKeyStore, SqlWrappedSigningKeys
from services.gateway.storage.unit_of_work import SqlBeginWork
from services.gateway.transport import edge_authorization, identity_servicer
from services.gateway.transport.edge_authorization import EdgeAuthorization
from services.gateway.transport.identity_servicer import IdentityServicer
from services.gateway.usecases.create_api_key import CreateApiKey, KeyMaker
from services.gateway.usecases.ensure_bootstrap import EnsureBootstrap
from services.gateway.usecases.exchange_api_key import ExchangeApiKey
from services.gateway.usecases.exchange_grant import ExchangeGrant
from services.gateway.usecases.guard_news import GuardNews
from services.gateway.usecases.issue_grant import IssueGrant
from services.gateway.usecases.key_gate import KeyGate
from services.gateway.usecases.key_uses import KeyUses
from services.gateway.usecases.revoke_api_key import RevokeApiKey
from services.gateway.usecases.rotate_api_key import RotateApiKey
from services.gateway.usecases.rotate_signing_key import RotateSigningKey
from services.gateway.usecases.service_accounts import CreateServiceAccount, DisableServiceAccount
from services.gateway.usecases.signing_key_ring import KeyBox, SigningKeyRing
from services.gateway.usecases.wrong_keys import WrongKeys
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.grpc.identity import TokenSigner
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.guard.mesh_guard import MeshGuard
from services.meshkit.sql.engine import AsyncEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """What signs access tokens."""

    ring: SigningKeyRing
    box: KeyBox
    #: Follows the key-encryption key.
    rewrap: Rewrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What the gateway serves and does about identities."""

    registrations: Sequence[Registration]
    background: Sequence[Background]
    #: Remembers verified keys.
    exchange: ExchangeApiKey


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


async def identities(
    settings: GatewaySettings,
    *,
    engine: AsyncEngine,
    maintenance: AsyncEngine,
    signing: Signing,
    news: GuardNews,
    clock: Clock,
    ids: IdSource,
    guard: MeshGuard,
) -> Identities:
    """Gives the service of identities; the bootstrap key is stored by then.

    Args:
        engine: of the role `app`.
        guard: knows the keys that work.
    """
    directory = SqlIdentityDirectory(maintenance)
    begin, begin_identity = SqlBeginWork(engine), SqlBeginIdentityWork(engine)
    maker = KeyMaker(clock=clock, ids=ids, randomness=token_bytes)
    uses = KeyUses(SqlKeyUses(engine), clock=clock)
    exchange = ExchangeApiKey(
        directory=directory,
        signer=signing.ring,
        clock=clock,
        ids=ids,
        seconds=settings.key_cache_seconds,
        remember=settings.max_cached_keys,
        used=uses.used,
    )

    def changed(tenant: TenantId) -> None:
        exchange.forget(tenant)
        news.wake()

    if settings.bootstrap_key_path is not None:
        ensure = EnsureBootstrap(directory=directory, begin=begin, maker=maker, clock=clock, ids=ids)
        await ensure(settings.bootstrap_key_path.read_text())
    servicer = IdentityServicer(
        exchange_api_key=exchange,
        create_api_key=CreateApiKey(begin=begin_identity, maker=maker, clock=clock, most=settings.max_api_keys),
        revoke_api_key=RevokeApiKey(begin=begin_identity, clock=clock, changed=changed),
        rotate_api_key=RotateApiKey(begin=begin_identity, maker=maker, clock=clock, changed=changed),
        create_service_account=CreateServiceAccount(
            begin=begin_identity, clock=clock, ids=ids, most=settings.max_service_accounts
        ),
        disable_service_account=DisableServiceAccount(begin=begin_identity, clock=clock, changed=changed),
        rotate_signing_key=RotateSigningKey(
            begin=begin_identity,
            box=signing.box,
            clock=clock,
            ids=ids,
            lead=timedelta(seconds=settings.signing_key_lead_seconds),
            read=signing.ring.read,
        ),
        issue_grant=IssueGrant(grants=SqlGrants(engine), clock=clock, ids=ids),
        exchange_grant=ExchangeGrant(directory=directory, signer=signing.ring, clock=clock, ids=ids),
        keys=SqlApiKeyReader(engine),
        accounts=SqlServiceAccountReader(engine),
        key_set=signing.ring.verifying,
    )
    gate = KeyGate(
        exchange, heard_of=guard.feed.key, wrong=WrongKeys(clock=clock, factor=settings.rate_factor), clock=clock
    )
    return Identities(
        registrations=(
            identity_servicer.registration(servicer),
            partial(
                edge_authorization.add_to_server,
                EdgeAuthorization(gate, addresses=guard.admission.addresses),
            ),
        ),
        background=(uses, signing.ring, signing.rewrap),
        exchange=exchange,
    )
