"""Embeds queries, and keeps the vectors of the last ones of each tenant."""

from collections import OrderedDict
from typing import Final

from services.memory.domain.vector import Embedding
from services.memory.usecases.ports import Embedder
from services.meshkit.content import CallContext
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.telemetry import metrics

#: A query is embedded again after this long, so that a change of the embedder is noticed, seconds.
_TTL_SECONDS: Final = 300.0
_CACHE: Final = "memory.query_vectors"


class QueryVectors:
    """A cache of query vectors, bounded per tenant and in tenants; who was not asked for longest goes first.

    A tenant's vectors are used for that tenant only: who asked what is information too.

    Args:
        per_tenant: most queries kept of one tenant.
        tenants: most tenants kept.
    """

    def __init__(self, embedder: Embedder, *, clock: Clock, per_tenant: int, tenants: int) -> None:
        self._embedder = embedder
        self._clock = clock
        self._per_tenant = per_tenant
        self._tenants = tenants
        self._known: OrderedDict[TenantId, OrderedDict[str, tuple[float, Embedding]]] = OrderedDict()
        self._size = metrics.CACHE_ITEMS.labels(_CACHE)

    async def of(self, principal: Principal, context: CallContext, query: str, *, seconds: float) -> Embedding:
        """Gives the vector of a query. Raises: what the embedder raises."""
        now = self._clock.monotonic()
        mine = self._known.get(principal.tenant)
        known = None if mine is None else mine.get(query)
        if mine is not None and known is not None and now < known[0]:
            self._known.move_to_end(principal.tenant)
            mine.move_to_end(query)
            return known[1]
        (made,) = await self._embedder.embed(principal, context, (query,), seconds=seconds)
        self._keep(principal.tenant, query, now + _TTL_SECONDS, made)
        return made

    def _keep(self, tenant: TenantId, query: str, until: float, made: Embedding) -> None:
        mine = self._known.setdefault(tenant, OrderedDict())
        mine[query] = (until, made)
        mine.move_to_end(query)
        self._known.move_to_end(tenant)
        if len(mine) > self._per_tenant:
            mine.popitem(last=False)
        if len(self._known) > self._tenants:
            self._known.popitem(last=False)
        self._size.set(len(self._known))
