"""How the answers of routes compare with those of their shadows, in Postgres."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.routing.comparison import Compared
from services.inference.storage.routing_tables import model_comparison
from services.inference.usecases.shadow import Pair
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import tenant_scope

_COUNTED: Final = tuple(one.name for one in fields(Compared))
#: Shadows of one route that are shown.
_MOST: Final = 100


class SqlComparisonRecords:
    """Implements `ComparisonRecords`."""

    def __init__(self, app: AsyncEngine) -> None:
        self._app = app

    async def add(self, found: Sequence[tuple[Pair, Compared]]) -> None:
        """See `ComparisonRecords.add`."""
        tenant = found[0][0].tenant
        rows = [
            {"tenant_id": tenant, "route": pair.route, "shadow": pair.shadow, **asdict(one), "updated_time": func.now()}
            for pair, one in sorted(found, key=lambda one: (one[0].route, one[0].shadow))
        ]
        statement = insert(model_comparison).values(rows)
        added = {name: model_comparison.c[name] + statement.excluded[name] for name in _COUNTED}
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            await scope.execute(
                statement.on_conflict_do_update(
                    constraint="pk_model_comparison",
                    set_={**added, "updated_time": statement.excluded.updated_time},
                )
            )
            await scope.commit()

    async def of(self, tenant: TenantId, route: str) -> Sequence[tuple[Pair, Compared]]:
        """See `ComparisonRecords.of`."""
        columns = model_comparison.c
        statement = (
            select(model_comparison)
            .where(columns.tenant_id == tenant, columns.route == route)
            .order_by(columns.updated_time.desc(), columns.shadow)
            .limit(_MOST)
        )
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            rows = (await scope.execute(statement)).mappings().all()
        return [
            (
                Pair(tenant=tenant, route=row["route"], shadow=row["shadow"]),
                Compared(**{name: row[name] for name in _COUNTED}),
            )
            for row in rows
        ]
