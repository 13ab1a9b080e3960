"""Puts together what answers about relations. A part of the wiring."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.gateway.clients.openfga import openfga_store
from services.gateway.settings import GatewaySettings
from services.gateway.storage.access_work import SqlBeginAccessWork, SqlModelReader, SqlUndeliveredChanges
from services.gateway.storage.relation_store import SqlRelationStore
from services.gateway.transport import access_servicer
from services.gateway.transport.access_servicer import AccessServicer
from services.gateway.usecases.access_ports import RelationStore
from services.gateway.usecases.check_relation import AuthorizeCaller, CheckRelation
from services.gateway.usecases.deliver_relations import DeliverRelations
from services.gateway.usecases.write_access_model import WriteAccessModel
from services.gateway.usecases.write_relations import WriteRelations
from services.gateway.wiring.ground import Ground
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.engine import AsyncEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a server of relations is made of."""

    registration: Registration
    background: Sequence[Background]


@asynccontextmanager
async def access(on: Ground) -> AsyncGenerator[Access]:
    """Gives what answers about relations; they are kept here, or by an OpenFGA server where one is set."""
    async with _store(on.settings, on.app) as store:
        begin, models = SqlBeginAccessWork(on.app), SqlModelReader(on.app)
        deliver = DeliverRelations(
            begin=SqlBeginAccessWork(on.app, audited=False),
            store=store,
            undelivered=SqlUndeliveredChanges(on.maintenance),
            clock=on.clock,
        )
        servicer = AccessServicer(
            write_model=WriteAccessModel(begin=begin, store=store),
            write_relations=WriteRelations(
                begin=begin, store=store, deliver=deliver, most=on.settings.max_relation_tuples
            ),
            check_relation=CheckRelation(models=models, store=store),
            authorize_caller=AuthorizeCaller(models=models, store=store),
            models=models,
            store=store,
        )
        background = (deliver,) if store.elsewhere else ()
        yield Access(registration=access_servicer.registration(servicer), background=background)


@asynccontextmanager
async def _store(settings: GatewaySettings, engine: AsyncEngine) -> AsyncGenerator[RelationStore]:
    if settings.openfga_url is None:
        yield SqlRelationStore(engine)
        return
    async with openfga_store(
        settings.openfga_url,
        store_id=settings.openfga_store_id,
        token=settings.openfga_token.get_secret_value(),
        seconds=settings.openfga_seconds,
    ) as store:
        yield store
