"""The newest heads are kept in memory for some tenants, and known for all."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import AuditKeys, Head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.usecases.seal_audit import LastHeads
from services.meshkit.core.identity import TenantId
from tests.support.audit_export import AuditKey

KEY = AuditKey()
TENANTS = [TenantId(UUID(int=number)) for number in range(1, 6)]


def a_head(size: int) -> Head:
    tree = merkle.Tree()
    for number in range(size):
        tree.append(merkle.leaf_hash(b"%d" % number))
    return KEY.head(tree, bytes(32))


@dataclass
class Store:
    """The newest heads as the head store has them, and copies as the database has them."""

    heads: Mapping[TenantId, Head]
    copies: Mapping[TenantId, Head] = field(default_factory=dict[TenantId, Head])
    asked: Counter[TenantId] = field(default_factory=Counter[TenantId])
    keys: AuditKeys = KEY.public

    async def newest(self, tenant: TenantId, *, above: int = 0) -> Head | None:
        self.asked[tenant] += 1
        head = self.heads.get(tenant)
        return head if head is not None and head.size > above else None

    async def newest_head(self, tenant: TenantId, *, covering: int = 0) -> Head | None:
        return self.copies.get(tenant)


def last_heads(store: Store, *, most: int = 2) -> LastHeads:
    given = cast(Any, store)
    return LastHeads(store=given, reader=given, signer=given, most=most)


async def test_only_so_many_stay_in_memory_and_the_others_are_fetched_again() -> None:
    store = Store({tenant: a_head(3) for tenant in TENANTS})
    last = last_heads(store)
    for tenant in (*TENANTS, TENANTS[-1], TENANTS[0]):
        assert await last.of(tenant) == store.heads[tenant]
    assert REGISTRY.get_sample_value("comitia_cache_items", {"cache": "gateway.audit_heads"}) == 2
    assert store.asked == Counter({**dict.fromkeys(TENANTS, 1), TENANTS[0]: 2})


async def test_what_was_signed_here_is_not_asked_for() -> None:
    store = Store({})
    last = last_heads(store)
    assert await last.of(TENANTS[0]) is None
    last.signed({TENANTS[0]: a_head(4)})
    assert await last.of(TENANTS[0]) == a_head(4)
    assert store.asked == Counter({TENANTS[0]: 1})


async def test_a_copy_in_the_database_hides_no_head_of_the_store() -> None:
    made_up = replace(a_head(3), size=900)
    last = last_heads(Store({TENANTS[0]: a_head(3)}, copies={TENANTS[0]: made_up}))
    assert await last.of(TENANTS[0]) == a_head(3)


async def test_a_signed_copy_counts_where_the_store_lacks_it() -> None:
    last = last_heads(Store({TENANTS[0]: a_head(3)}, copies={TENANTS[0]: a_head(5), TENANTS[1]: a_head(2)}))
    assert [await last.of(tenant) for tenant in TENANTS[:3]] == [a_head(5), a_head(2), None]
    assert last.lacking == {TENANTS[0]: a_head(5), TENANTS[1]: a_head(2)}


async def test_a_head_that_nobody_signed_is_no_head() -> None:
    last = last_heads(Store({TENANTS[0]: replace(a_head(3), root_hash=bytes(32))}))
    with pytest.raises(HeadStoreDamaged, match="does not hold"):
        await last.of(TENANTS[0])
