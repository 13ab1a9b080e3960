"""Bundles in Postgres, and which one is law."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, and_, case, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope
from services.policy.domain.bundle import Bundle, BundleId, parse_version
from services.policy.domain.errors import BundleNotFound, BundleVersionExists, TooManyBundles
from services.policy.storage.one_trips import CHANGED_LAWS
from services.policy.storage.tables import BUNDLE, LAW, LAW_CHANGE
from services.policy.usecases.ports import ActiveLaw, LawChange, NewBundle


class BundleRepository:
    """Implements `usecases.ports.BundleStore`.

    Args:
        app: engine of the role `app`.
        maintenance: engine of the role `maintenance`, to see whose law changed.
    """

    def __init__(self, *, app: AsyncEngine, maintenance: AsyncEngine, clock: Clock) -> None:
        self._app = app
        self._maintenance = maintenance
        self._clock = clock

    async def add(self, tenant: TenantId, new: NewBundle, *, activate: bool, most: int) -> Bundle:
        """See `BundleStore.add`."""
        bundle = new.bundle
        async with tenant_scope(self._app, tenant) as scope:
            await claim_once(scope)
            inserted = (await scope.execute(_insertion(tenant, new))).rowcount
            if inserted:
                stored = (
                    await scope.execute(select(func.count()).select_from(BUNDLE).where(BUNDLE.c.tenant_id == tenant))
                ).scalar_one()
                if stored > most:
                    raise TooManyBundles(most)
            if activate:
                await self._activate(scope, tenant, ActiveLaw(bundle.name, bundle.version), new.by)
            row = (await scope.execute(_bundles(tenant, bundle.name, bundle.version))).mappings().one()
            if row["digest"] != bundle.digest:
                raise BundleVersionExists(bundle.reference)
            if inserted or activate:
                await keep_once(scope, _bundle_of(row))
                await scope.commit()
        return _bundle_of(row)

    async def activate(self, tenant: TenantId, law: ActiveLaw, *, by: str, bundle: Bundle) -> None:
        """See `BundleStore.activate`."""
        async with tenant_scope(self._app, tenant) as scope:
            await claim_once(scope)
            await self._activate(scope, tenant, law, by)
            await keep_once(scope, bundle)
            await scope.commit()

    async def find(self, tenant: TenantId, name: str, version: str) -> Bundle:
        """See `BundleStore.find`."""
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            row = (await scope.execute(_bundles(tenant, name, version))).mappings().first()
        if row is None:
            raise BundleNotFound(f"{name}@{version}" if version else name)
        return _bundle_of(row)

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Bundle]:
        """See `BundleStore.page`."""
        columns = [column for column in BUNDLE.c if column.name != "source"]
        place = (BUNDLE.c.name, BUNDLE.c.major, BUNDLE.c.minor, BUNDLE.c.patch)
        statement = (
            select(*columns, _is_law().label("active"))
            .select_from(BUNDLE.outerjoin(LAW, BUNDLE.c.tenant_id == LAW.c.tenant_id))
            .where(BUNDLE.c.tenant_id == tenant)
            .order_by(*place)
            .limit(most)
        )
        if after is not None:
            name, version = after
            statement = statement.where(tuple_(*place) > (name, *parse_version(version, field="page_token")))
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return [_bundle_of(row) for row in (await scope.execute(statement)).mappings()]

    async def active(self, tenant: TenantId) -> ActiveLaw | None:
        """See `BundleStore.active`."""
        statement = select(LAW.c.name, LAW.c.version).where(LAW.c.tenant_id == tenant)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            row = (await scope.execute(statement)).one_or_none()
        return None if row is None else ActiveLaw(row.name, row.version)

    async def newest_change(self) -> int:
        """See `BundleStore.newest_change`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            return int((await scope.execute(select(LAW_CHANGE.c.change))).scalar_one())

    async def changes_since(self, change: int, *, most: int) -> Sequence[LawChange]:
        """See `BundleStore.changes_since`."""
        rows = await one_trip(self._maintenance, None, CHANGED_LAWS, change, most)
        return [
            LawChange(row["change"], TenantId(row["tenant_id"]), ActiveLaw(row["name"], row["version"]).reference)
            for row in rows
        ]

    async def _activate(self, scope: Scope, tenant: TenantId, law: ActiveLaw, by: str) -> None:
        number = (
            await scope.execute(
                update(LAW_CHANGE).values(change=LAW_CHANGE.c.change + 1).returning(LAW_CHANGE.c.change)
            )
        ).scalar_one()
        values = {
            "name": law.name,
            "version": law.version,
            "change": number,
            "activated_by": by,
            "activated_time": self._clock.now(),
        }
        statement = insert(LAW).values(tenant_id=tenant, **values)
        await scope.execute(statement.on_conflict_do_update(index_elements=[LAW.c.tenant_id], set_=values))


def _insertion(tenant: TenantId, new: NewBundle) -> Any:  # SQLAlchemy's type of an upsert is private
    bundle = new.bundle
    major, minor, patch = parse_version(bundle.version, field="version")
    return (
        insert(BUNDLE)
        .values(
            id=bundle.id,
            tenant_id=tenant,
            name=bundle.name,
            version=bundle.version,
            major=major,
            minor=minor,
            patch=patch,
            digest=bundle.digest,
            source=bundle.source,
            rule_count=bundle.rule_count,
            created_by=new.by,
            created_time=bundle.created,
        )
        .on_conflict_do_nothing()
    )


def _bundles(tenant: TenantId, name: str, version: str) -> Select[Any]:
    """Gives one version, or with none named the active one first, then the highest."""
    statement = (
        select(BUNDLE, _is_law().label("active"))
        .select_from(BUNDLE.outerjoin(LAW, BUNDLE.c.tenant_id == LAW.c.tenant_id))
        .where(BUNDLE.c.tenant_id == tenant, BUNDLE.c.name == name)
    )
    if version:
        return statement.where(BUNDLE.c.version == version)
    return statement.order_by(
        _is_law().desc(), BUNDLE.c.major.desc(), BUNDLE.c.minor.desc(), BUNDLE.c.patch.desc()
    ).limit(1)


def _is_law() -> Any:
    return case((and_(LAW.c.name == BUNDLE.c.name, LAW.c.version == BUNDLE.c.version), True), else_=False)


def _bundle_of(row: RowMapping) -> Bundle:
    return Bundle(
        id=BundleId(row["id"]),
        name=row["name"],
        version=row["version"],
        digest=row["digest"],
        source=row.get("source", ""),
        rule_count=row["rule_count"],
        created=row["created_time"],
        active=row["active"],
    )
