"""One transaction about people."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import and_, any_, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.id_token import VerifiedLogin
from services.gateway.domain.oidc_issuer import ISSUER_PREFIX, OidcIssuer
from services.gateway.domain.user import USER_PREFIX, User
from services.gateway.storage.alone import alone
from services.gateway.storage.people_tables import (
    OIDC_ISSUER,
    PERSON,
    PERSON_AT_ISSUER,
    PK_PERSON_AT_ISSUER,
    PK_REVOKED_SUBJECT,
    REVOKED_SUBJECT,
    UQ_ISSUER,
    UQ_PERSON_EMAIL,
)
from services.gateway.storage.tables import API_KEY, SERVICE_ACCOUNT
from services.gateway.storage.unit_of_work import SqlTenants
from services.gateway.storage.work import SqlWork
from services.meshkit.core.errors import AlreadyExists, NotFound
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.errors import violates
from services.meshkit.sql.scope import Scope, tenant_scope

#: A key that ends sooner than this is nobody to leave a tenant to.
_LASTING: Final = timedelta(days=1)


class SqlPeopleWork(SqlWork):
    """Implements `usecases.people_ports.PeopleWork`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.users = SqlUsers(scope)
        self.issuers = SqlIssuers(scope)
        self.tenants = SqlTenants(scope)
        self.administration = SqlAdministration(scope)
        self.revocations = SqlRevocations(scope)


class SqlBeginPeopleWork:
    """Implements `usecases.people_ports.BeginPeopleWork`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, *tenants: TenantId) -> AsyncGenerator[SqlPeopleWork]:
        """See `BeginPeopleWork`."""
        async with tenant_scope(self._engine, tenants) as scope:
            yield SqlPeopleWork(scope)


class SqlUsers:
    """Implements `usecases.people_ports.Users`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, user: User) -> None:
        """See `Users.add`."""
        try:
            await self._scope.execute(insert(PERSON).values(id=user.id, tenant_id=user.tenant, **_changing(user)))
        except IntegrityError as error:
            if violates(error, UQ_PERSON_EMAIL):
                raise AlreadyExists("user", user.email) from error
            raise

    async def get(self, tenant: TenantId, user: UUID) -> User:
        """See `Users.get`."""
        statement = select(PERSON).where(PERSON.c.tenant_id == tenant, PERSON.c.id == user).with_for_update()
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("user", from_uuid(USER_PREFIX, user))
        return user_of(row)

    async def with_email(self, tenant: TenantId, email: str) -> User | None:
        """See `Users.with_email`."""
        statement = (
            select(PERSON)
            .where(PERSON.c.tenant_id == tenant, PERSON.c.email == email)
            .order_by(PERSON.c.remove_time.desc().nulls_first())
            .limit(1)
            .with_for_update()
        )
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        return None if row is None else user_of(row)

    async def replace(self, user: User) -> None:
        """See `Users.replace`."""
        mine = (PERSON.c.tenant_id == user.tenant, PERSON.c.id == user.id)
        await self._scope.execute(update(PERSON).where(*mine).values(_changing(user)))

    async def count(self, tenant: TenantId) -> int:
        """See `Users.count`."""
        await alone(self._scope, "person", tenant)
        mine = (PERSON.c.tenant_id == tenant, PERSON.c.remove_time.is_(None))
        return (await self._scope.execute(select(func.count()).select_from(PERSON).where(*mine))).scalar_one()

    async def bind(self, user: User, login: VerifiedLogin, now: datetime) -> str:
        """See `Users.bind`."""
        statement = (
            upsert(PERSON_AT_ISSUER)
            .values(
                tenant_id=user.tenant,
                person_id=user.id,
                oidc_issuer_id=login.issuer.id,
                subject=login.subject,
                create_time=now,
            )
            # An update without effect, so that the row which stands comes back.
            .on_conflict_do_update(constraint=PK_PERSON_AT_ISSUER, set_={"person_id": user.id})
            .returning(PERSON_AT_ISSUER.c.subject)
        )
        bound: str = (await self._scope.execute(statement)).scalar_one()
        return bound


class SqlIssuers:
    """Implements `usecases.people_ports.Issuers`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, issuer: OidcIssuer) -> None:
        """See `Issuers.add`."""
        values = {
            "id": issuer.id,
            "tenant_id": issuer.tenant,
            "issuer": issuer.issuer,
            "client_id": issuer.client_id,
            "trusted_domains": sorted(issuer.trusted_domains),
            "default_roles": sorted(issuer.default_roles),
            "most_roles": sorted(issuer.most_roles),
            "create_time": issuer.create_time,
        }
        try:
            await self._scope.execute(insert(OIDC_ISSUER).values(values))
        except IntegrityError as error:
            if violates(error, UQ_ISSUER):
                raise AlreadyExists("issuer", issuer.issuer) from error
            raise

    async def get(self, tenant: TenantId, issuer: UUID) -> OidcIssuer:
        """See `Issuers.get`."""
        statement = select(OIDC_ISSUER).where(OIDC_ISSUER.c.tenant_id == tenant, OIDC_ISSUER.c.id == issuer)
        return _found((await self._scope.execute(statement)).mappings().one_or_none(), issuer)

    async def remove(self, tenant: TenantId, issuer: UUID) -> OidcIssuer:
        """See `Issuers.remove`."""
        bound = delete(PERSON_AT_ISSUER).where(
            PERSON_AT_ISSUER.c.tenant_id == tenant, PERSON_AT_ISSUER.c.oidc_issuer_id == issuer
        )
        await self._scope.execute(bound)
        statement = (
            delete(OIDC_ISSUER)
            .where(OIDC_ISSUER.c.tenant_id == tenant, OIDC_ISSUER.c.id == issuer)
            .returning(OIDC_ISSUER)
        )
        return _found((await self._scope.execute(statement)).mappings().one_or_none(), issuer)

    async def count(self, tenant: TenantId) -> int:
        """See `Issuers.count`."""
        await alone(self._scope, "oidc_issuer", tenant)
        statement = select(func.count()).select_from(OIDC_ISSUER).where(OIDC_ISSUER.c.tenant_id == tenant)
        return (await self._scope.execute(statement)).scalar_one()


class SqlAdministration:
    """Implements `usecases.people_ports.Administration`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def others_than(self, user: User, *, now: datetime) -> bool:
        """See `Administration.others_than`."""
        await alone(self._scope, "administration", user.tenant)
        person = exists().where(
            PERSON.c.tenant_id == user.tenant,
            PERSON.c.id != user.id,
            PERSON.c.remove_time.is_(None),
            literal(Role.ADMIN.value) == any_(PERSON.c.roles),
            exists().where(OIDC_ISSUER.c.tenant_id == user.tenant),
        )
        # Of a key of a service account, the account's roles and project count.
        administers = and_(
            API_KEY.c.service_account_id.is_(None),
            API_KEY.c.project.is_(None),
            literal(Role.ADMIN.value) == any_(API_KEY.c.roles),
        )
        account = exists().where(
            SERVICE_ACCOUNT.c.tenant_id == user.tenant,
            SERVICE_ACCOUNT.c.id == API_KEY.c.service_account_id,
            SERVICE_ACCOUNT.c.disable_time.is_(None),
            SERVICE_ACCOUNT.c.project.is_(None),
            literal(Role.ADMIN.value) == any_(SERVICE_ACCOUNT.c.roles),
        )
        key = exists().where(
            API_KEY.c.tenant_id == user.tenant,
            API_KEY.c.revoke_time.is_(None),
            or_(API_KEY.c.expire_time.is_(None), API_KEY.c.expire_time > now + _LASTING),
            API_KEY.c.scopes.is_(None),
            or_(administers, account),
        )
        return (await self._scope.execute(select(or_(person, key)))).scalar_one()


class SqlRevocations:
    """Implements `usecases.people_ports.Revocations`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, tenant: TenantId, subject: str, now: datetime) -> None:
        """See `Revocations.add`."""
        statement = upsert(REVOKED_SUBJECT).values(tenant_id=tenant, subject=subject, revoke_time=now)
        later = func.greatest(REVOKED_SUBJECT.c.revoke_time, statement.excluded.revoke_time)
        await self._scope.execute(
            statement.on_conflict_do_update(constraint=PK_REVOKED_SUBJECT, set_={"revoke_time": later})
        )


def user_of(row: Mapping[Any, Any]) -> User:
    """Reads a row of `person`."""
    return User(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        email=row["email"],
        roles=frozenset(Role(role) for role in row["roles"]),
        roles_time=row["roles_time"],
        create_time=row["create_time"],
        last_login_time=row["last_login_time"],
        remove_time=row["remove_time"],
    )


def issuer_of(row: Mapping[Any, Any]) -> OidcIssuer:
    """Reads a row of `oidc_issuer`."""
    return OidcIssuer(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        issuer=row["issuer"],
        client_id=row["client_id"],
        trusted_domains=frozenset(row["trusted_domains"]),
        default_roles=frozenset(Role(role) for role in row["default_roles"]),
        most_roles=frozenset(Role(role) for role in row["most_roles"]),
        create_time=row["create_time"],
    )


def _changing(user: User) -> dict[str, object]:
    return {
        "email": user.email,
        "roles": sorted(user.roles),
        "roles_time": user.roles_time,
        "create_time": user.create_time,
        "last_login_time": user.last_login_time,
        "remove_time": user.remove_time,
    }


def _found(row: Mapping[Any, Any] | None, issuer: UUID) -> OidcIssuer:
    if row is None:
        raise NotFound("issuer", from_uuid(ISSUER_PREFIX, issuer))
    return issuer_of(row)
