"""Puts together what answers about relations. A part of the wiring."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.gateway.clients.openfga import openfga_store
from services.gateway.settings import GatewaySettings
from services.gateway.storage.access_work import SqlBeginAccessWork, SqlModelReader
from services.gateway.storage.relation_store import SqlRelationStore
from services.gateway.transport.access_servicer import AccessServicer
from services.gateway.usecases.access_ports import RelationStore
from services.gateway.usecases.check_relation import AuthorizeCaller, CheckRelation
from services.gateway.usecases.write_access_model import WriteAccessModel
from services.gateway.usecases.write_relations import WriteRelations
from services.meshkit.sql.engine import AsyncEngine


@asynccontextmanager
async def access(settings: GatewaySettings, *, engine: AsyncEngine) -> AsyncGenerator[AccessServicer]:
    """Gives the servicer of relations; they are kept here, or by an OpenFGA server where one is set.

    Args:
        engine: of the role `app`.
    """
    async with _store(settings, engine) as store:
        begin, models = SqlBeginAccessWork(engine), SqlModelReader(engine)
        yield AccessServicer(
            write_model=WriteAccessModel(begin=begin, store=store),
            write_relations=WriteRelations(begin=begin, store=store, most=settings.max_relation_tuples),
            check_relation=CheckRelation(models=models, store=store),
            authorize_caller=AuthorizeCaller(models=models, store=store),
            models=models,
            store=store,
        )


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
