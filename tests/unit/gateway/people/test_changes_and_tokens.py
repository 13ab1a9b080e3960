"""A change of a user and a token that is given at the same moment: one waits for the other, and the change wins."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.gateway.domain.id_token import VerifiedLogin
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.user import User
from services.gateway.usecases.change_user import RemoveUser, SetUserRoles
from services.gateway.usecases.sign_in import SignIn
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.issuers import TENANT, an_issuer

ADMIN = Caller(principal=Principal(tenant=TENANT, subject="key_x", roles=frozenset({Role.ADMIN})))


class House:
    """One user and the transactions about it; the row is free only after `waited`."""

    def __init__(self, *, waited: timedelta = timedelta()) -> None:
        self.clock = FakeClock()
        self.waited = waited
        self.user = User(
            id=UUID(int=7),
            tenant=TENANT,
            email="ann@example.com",
            roles=frozenset({Role.ADMIN}),
            roles_time=self.clock.now(),
            create_time=self.clock.now(),
        )
        self.open = False
        self.committed = False
        #: When each token was signed.
        self.signed: list[datetime] = []
        self.revoked: dict[str, datetime] = {}
        # Each part of a transaction is the house itself.
        self.users: Any = self
        self.issuers: Any = Issuers()
        self.tenants: Any = Tenants()
        self.administration: Any = self
        self.revocations: Any = self

    @asynccontextmanager
    async def begin(self, *tenants: TenantId) -> AsyncGenerator["House"]:
        assert tenants == (TENANT,)
        self.open = True
        yield self
        self.open = False

    async def commit(self) -> None:
        self.committed = True

    async def claim_once(self) -> None:
        """Nobody repeats anything here."""

    async def keep_once(self, made: object) -> None:
        """See `claim_once`."""

    async def get(self, tenant: TenantId, user: UUID) -> User:
        self.clock.advance(seconds=self.waited.total_seconds())
        return self.user

    async def with_email(self, tenant: TenantId, email: str) -> User:
        return await self.get(tenant, self.user.id)

    async def replace(self, user: User) -> None:
        self.user = user

    async def bind(self, user: User, login: VerifiedLogin, now: datetime) -> str:
        return login.subject

    async def others_than(self, user: User, *, now: datetime) -> bool:
        return True

    async def add(self, tenant: TenantId, subject: str, now: datetime) -> None:
        self.revoked[subject] = now

    def sign(self, principal: Principal, *, life: timedelta, token_id: str, grant: str | None = None) -> str:
        assert self.open, "signed after the row was let go"
        assert not self.committed, "signed after the commit"
        self.signed.append(self.clock.now())
        return "token"


class Issuers:
    async def get(self, tenant: TenantId, issuer: UUID) -> Any:
        return an_issuer()


class Tenants:
    async def get(self, tenant: TenantId) -> Tenant:
        return Tenant(id=tenant, name="acme", create_time=datetime(2026, 1, 1, tzinfo=UTC))


class Verifies:
    """Takes every text for a good ID token."""

    async def issuers_of(self, tenant: str) -> list[Any]:
        return [an_issuer()]

    async def verified(self, text: str, *, issuers: Any) -> VerifiedLogin:
        return VerifiedLogin(issuer=issuers[0], subject="ann", email="ann@example.com")


async def test_a_token_of_a_sign_in_is_signed_while_the_user_cannot_change() -> None:
    house = House(waited=timedelta(seconds=3))
    sign_in = SignIn(
        directory=Verifies(),
        id_tokens=Verifies(),
        begin=house.begin,
        signer=house,
        clock=house.clock,
        ids=SystemIds(),
        most_users=10,
    )
    await sign_in("acme", "token")
    assert house.committed
    assert house.user.last_login_time is not None
    assert house.signed <= [house.user.last_login_time]


async def test_a_change_of_roles_refuses_the_tokens_of_sign_ins_that_it_waited_for() -> None:
    house = House(waited=timedelta(seconds=3))
    change = SetUserRoles(begin=house.begin, clock=house.clock)
    started = house.clock.now()
    await change(ADMIN, house.user.id, [Role.AUDITOR])
    assert house.revoked == {house.user.subject: started + house.waited}


async def test_a_change_of_roles_is_later_than_the_one_before_whatever_the_clocks_say() -> None:
    house = House()
    ahead = house.clock.now() + timedelta(seconds=2)
    house.user = replace(house.user, roles_time=ahead)
    await SetUserRoles(begin=house.begin, clock=house.clock)(ADMIN, house.user.id, [Role.AUDITOR])
    assert house.revoked == {house.user.subject: ahead + timedelta.resolution}
    assert house.user.roles_time == ahead + timedelta.resolution


async def test_the_roles_that_a_user_has_already_refuse_no_token() -> None:
    house = House()
    await SetUserRoles(begin=house.begin, clock=house.clock)(ADMIN, house.user.id, [Role.ADMIN])
    assert house.revoked == {}


@pytest.mark.parametrize("waited", [timedelta(), timedelta(seconds=3)])
async def test_a_removed_user_is_refused_for_tokens_of_the_next_minute_too(waited: timedelta) -> None:
    house = House(waited=waited)
    await RemoveUser(begin=house.begin, clock=house.clock)(ADMIN, house.user.id)
    assert house.user.remove_time == house.clock.now()
    assert house.revoked == {house.user.subject: house.clock.now() + timedelta(minutes=1)}
