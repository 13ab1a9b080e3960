"""A stream asks of each item whether its caller may still come in."""

import time
from typing import Any
from uuid import UUID

import pytest

from comitia.common.v1.batch_pb2 import IdentityTable
from comitia.guard_table import GUARDS
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.grpc.guard import Admission
from services.meshkit.grpc.identity import VerifiedToken
from services.meshkit.grpc.signed_token import TokenMalformed
from services.meshkit.grpc.stream_identities import StreamIdentities
from services.meshkit.guard.errors import TenantSuspended

METHOD = "/comitia.cost.v1.BudgetService/BatchSpend"
PRINCIPAL = Principal(tenant=TenantId(UUID(int=1)), subject="key_1", roles=frozenset({Role.ADMIN}))


class Tokens:
    """Knows one token."""

    def verify(self, token: str) -> VerifiedToken:
        if token != "good":
            raise TokenMalformed("it is none")
        return VerifiedToken(principal=PRINCIPAL, issued=time.time(), expires=time.time() + 900)


class Standing:
    """Refuses while `suspended`."""

    suspended = True

    def check(self, verified: VerifiedToken) -> None:
        if self.suspended:
            raise TenantSuspended

    def allowed_networks(self, tenant: TenantId) -> tuple[str, ...]:
        return ()


def named(standing: Any, *tokens: str) -> StreamIdentities:
    untyped: Any = Tokens()
    admission = Admission(GUARDS, tokens=untyped, workloads=untyped, standing=standing)
    identities = StreamIdentities(admission, method=METHOD, peer="inference")
    identities.extend(IdentityTable(access_tokens=tokens))
    return identities


def test_a_token_that_was_named_while_its_tenant_was_suspended_works_once_that_is_resumed() -> None:
    standing = Standing()
    identities = named(standing, "good")
    with pytest.raises(TenantSuspended):
        identities.principal(0, now=time.time())
    standing.suspended = False
    assert identities.principal(0, now=time.time()) == PRINCIPAL
    standing.suspended = True
    with pytest.raises(TenantSuspended):
        identities.principal(0, now=time.time())


def test_a_token_that_is_none_fails_the_items_that_name_it_and_no_other() -> None:
    standing = Standing()
    standing.suspended = False
    identities = named(standing, "none", "good")
    with pytest.raises(TokenMalformed):
        identities.principal(0, now=time.time())
    assert identities.principal(1, now=time.time()) == PRINCIPAL
