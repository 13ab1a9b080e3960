"""Builds memory: the only room that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.memory.settings import MemorySettings
from services.memory.storage.tenant_data import TENANT_DATA
from services.memory.usecases.erase_vectors import EraseVectors
from services.memory.wiring.doors import doors
from services.memory.wiring.embedding import embedding
from services.memory.wiring.ground import ground
from services.memory.wiring.keeping import keeping
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@asynccontextmanager
async def memory(settings: MemorySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what memory needs and gives its server; leaving the block commits what waits and closes everything."""
    async with ground(settings, clock=clock, ids=ids) as on, keeping(on) as kept:
        embedded = embedding(on, kept)
        erasure = TenantData(
            TenantRows("memory", on.maintenance, TENANT_DATA),
            tenants=on.guard.feed,
            others=(EraseVectors(on.vectors),),
        )
        yield Server(
            name="memory",
            listen=settings.listen,
            registrations=(doors(on, kept, embedded), erasure.registration, *on.guard.registrations),
            admission=on.guard.admission,
            tls=on.signer.tls,
            refusals=on.audit.refusals,
            background=(
                embedded.embed,
                embedded.place,
                ForgetRequests(on.maintenance, clock=clock),
                *on.sealed.background,
                *on.guard.background,
            ),
            ready=on.guard.ready,
            metrics_listen=settings.metrics_listen,
            notice_seconds=settings.notice_seconds,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
