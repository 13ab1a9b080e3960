"""What the head store has lost is told, and what a restore has not brought back is no loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.usecases.compare_heads import ComparedHeads, CompareHeads
from services.meshkit.core.identity import TenantId

ONE, TWO, THREE = (TenantId(UUID(int=number)) for number in range(1, 4))
NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001  # written with a Z


def a_head(size: int, *, minutes: int = 0) -> Head:
    signed = f"{NOON + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S}Z"
    return Head(
        tenant_id="tenant", size=size, root_hash=bytes(32), chain_hash=bytes(32), sign_time=signed, key_id="key"
    )


@dataclass
class Both:
    """The head store, and the database with its copies."""

    heads: Mapping[TenantId, Head]
    copies: Mapping[TenantId, Head | None]
    damaged: set[TenantId] = field(default_factory=set[TenantId])

    async def tenants(self) -> list[TenantId]:
        return sorted({*self.heads, *self.copies, *self.damaged})

    async def newest(self, tenant: TenantId) -> Head | None:
        if tenant in self.damaged:
            raise HeadStoreDamaged("something else")
        return self.heads.get(tenant)

    async def newest_head(self, tenant: TenantId) -> Head | None:
        return self.copies.get(tenant)


async def compared(both: Both) -> ComparedHeads:
    given = cast(Any, both)
    return await CompareHeads(store=given, trails=given, reader=given)()


async def test_a_store_that_has_all_is_whole_and_its_tenants_are_counted() -> None:
    both = Both({ONE: a_head(3), TWO: a_head(9)}, {ONE: a_head(3), TWO: a_head(8), THREE: None})
    assert await compared(both) == ComparedHeads(in_store=2, copies_alone=0, faults={})


async def test_a_head_that_was_signed_long_before_the_newest_of_the_store_was_lost() -> None:
    heads = {ONE: a_head(3), THREE: a_head(1, minutes=90)}
    found = await compared(Both(heads, {ONE: a_head(5, minutes=10), TWO: a_head(2), THREE: a_head(1, minutes=90)}))
    assert (found.in_store, found.copies_alone) == (2, 2)
    assert found.faults == {
        ONE: "the head store lacks its head over 5 entries, which was signed on 2026-03-01T12:10:00Z",
        TWO: "the head store lacks its head over 2 entries, which was signed on 2026-03-01T12:00:00Z",
    }


async def test_a_store_without_any_head_has_lost_them_all() -> None:
    found = await compared(Both({}, {ONE: a_head(5)}))
    assert (found.in_store, found.faults.keys()) == (0, {ONE})


async def test_what_was_signed_after_the_store_was_copied_is_told_and_no_fault() -> None:
    found = await compared(Both({ONE: a_head(3)}, {ONE: a_head(5, minutes=600), TWO: a_head(2, minutes=-1)}))
    assert found == ComparedHeads(in_store=1, copies_alone=2, faults={})


async def test_heads_that_cannot_be_read_are_told_by_the_comparison_with_chains() -> None:
    found = await compared(Both({TWO: a_head(2, minutes=90)}, {ONE: a_head(5), TWO: None}, damaged={ONE}))
    assert found == ComparedHeads(in_store=1, copies_alone=0, faults={})
