"""Puts together API keys, service accounts and grants, and what the edge asks about callers. A part of the wiring."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from secrets import token_bytes

from services.gateway.storage.api_key_reader import SqlApiKeyReader
from services.gateway.storage.grants import SqlGrants
from services.gateway.storage.identity_directory import SqlIdentityDirectory
from services.gateway.storage.identity_work import SqlBeginIdentityWork
from services.gateway.storage.key_uses import SqlKeyUses
from services.gateway.storage.service_account_reader import SqlServiceAccountReader
from services.gateway.storage.unit_of_work import SqlBeginWork
from services.gateway.transport import edge_authorization, identity_servicer
from services.gateway.transport.edge_authorization import EdgeAuthorization
from services.gateway.transport.identity_servicer import IdentityServicer
from services.gateway.usecases.create_api_key import CreateApiKey, KeyMaker
from services.gateway.usecases.ensure_bootstrap import EnsureBootstrap
from services.gateway.usecases.exchange_api_key import ExchangeApiKey
from services.gateway.usecases.exchange_grant import ExchangeGrant
from services.gateway.usecases.issue_grant import IssueGrant
from services.gateway.usecases.key_gate import KeyGate
from services.gateway.usecases.key_uses import KeyUses
from services.gateway.usecases.revoke_api_key import RevokeApiKey
from services.gateway.usecases.rotate_api_key import RotateApiKey
from services.gateway.usecases.rotate_signing_key import RotateSigningKey
from services.gateway.usecases.service_accounts import CreateServiceAccount, DisableServiceAccount
from services.gateway.usecases.wrong_keys import WrongKeys
from services.gateway.wiring.ground import Ground
from services.meshkit.core.identity import TenantId
from services.meshkit.grpc.server import Background, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What the gateway serves and does about identities."""

    registrations: Sequence[Registration]
    background: Sequence[Background]


@asynccontextmanager
async def identities(on: Ground) -> AsyncGenerator[Identities]:
    """Gives the service of identities; the bootstrap key is stored by then.

    While the block runs, verified keys are forgotten as soon as something changes for their tenant.
    """
    settings, clock, guard, keys = on.settings, on.clock, on.guard, on.signing
    directory = SqlIdentityDirectory(on.maintenance)
    uses = KeyUses(SqlKeyUses(on.app), clock=clock)
    exchange = ExchangeApiKey(
        directory=directory,
        signer=keys.ring,
        clock=clock,
        ids=on.ids,
        seconds=settings.key_cache_seconds,
        remember=settings.max_cached_keys,
        used=uses.used,
    )
    await _bootstrap(on, directory)
    servicer = _servicer(on, directory, exchange)
    gate = KeyGate(
        exchange, heard_of=guard.feed.key, wrong=WrongKeys(clock=clock, factor=settings.rate_factor), clock=clock
    )
    edge = EdgeAuthorization(gate, addresses=guard.admission.addresses)
    with guard.feed.changed(exchange.forget):
        yield Identities(
            registrations=(
                identity_servicer.registration(servicer),
                partial(edge_authorization.add_to_server, edge),
            ),
            background=(uses, keys.ring, keys.rewrap),
        )


async def _bootstrap(on: Ground, directory: SqlIdentityDirectory) -> None:
    path, begin = on.settings.bootstrap_key_path, SqlBeginWork(on.app)
    if path is not None:
        ensure = EnsureBootstrap(directory=directory, begin=begin, maker=key_maker(on), clock=on.clock, ids=on.ids)
        await ensure(path.read_text())


def _servicer(on: Ground, directory: SqlIdentityDirectory, exchange: ExchangeApiKey) -> IdentityServicer:
    settings, clock, ids, ring = on.settings, on.clock, on.ids, on.signing.ring
    begin, maker = SqlBeginIdentityWork(on.app), key_maker(on)

    def changed(tenant: TenantId) -> None:
        exchange.forget(tenant)
        on.news.wake()

    return IdentityServicer(
        exchange_api_key=exchange,
        create_api_key=CreateApiKey(begin=begin, maker=maker, clock=clock, most=settings.max_api_keys),
        revoke_api_key=RevokeApiKey(begin=begin, clock=clock, changed=changed),
        rotate_api_key=RotateApiKey(begin=begin, maker=maker, clock=clock, changed=changed),
        create_service_account=CreateServiceAccount(
            begin=begin, clock=clock, ids=ids, most=settings.max_service_accounts
        ),
        disable_service_account=DisableServiceAccount(begin=begin, clock=clock, changed=changed),
        rotate_signing_key=RotateSigningKey(
            begin=begin,
            box=on.signing.box,
            clock=clock,
            ids=ids,
            lead=timedelta(seconds=settings.signing_key_lead_seconds),
            read=ring.read,
        ),
        issue_grant=IssueGrant(grants=SqlGrants(on.app), clock=clock, ids=ids),
        exchange_grant=ExchangeGrant(directory=directory, signer=ring, clock=clock, ids=ids),
        keys=SqlApiKeyReader(on.app),
        accounts=SqlServiceAccountReader(on.app),
        key_set=ring.verifying,
    )


def key_maker(on: Ground) -> KeyMaker:
    """Gives what makes API keys."""
    return KeyMaker(clock=on.clock, ids=on.ids, randomness=token_bytes)
