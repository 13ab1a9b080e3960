"""Exports: whoever is slow to take a file keeps nobody else from theirs."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.cost.domain.cost_event import CostEvent
from services.cost.domain.cost_file import FileFormat
from services.cost.domain.hold import CostKind
from services.cost.domain.rollup import Span, Step
from services.cost.usecases.export_costs import Detail, ExportCosts, ExportOrder, TooManyExports
from services.cost.usecases.ledger_ports import CostFilter, ExportLine, Sums
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.money import NOON

LINE = ExportLine(
    start=NOON, project="", agent_name="Athena", provider="openai", model="m", kind=CostKind.GENERATE, sums=Sums()
)


class Ledger:
    """One line a day, and no entries."""

    reads = 0

    def lines(
        self, tenant: TenantId, step: Step, span: Span, only: CostFilter, *, size: int
    ) -> AsyncGenerator[Sequence[ExportLine]]:
        return self._lines()

    async def _lines(self) -> AsyncGenerator[Sequence[ExportLine]]:
        self.reads += 1
        yield [LINE]

    async def ascending(
        self,
        tenant: TenantId,
        span: Span,
        only: CostFilter,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[CostEvent]:
        self.reads += 1
        return []


def exports() -> tuple[Ledger, ExportCosts]:
    # Any: of a reader's questions, exports ask two.
    ledger: Any = Ledger()
    return ledger, ExportCosts(ledger=ledger, clock=FakeClock())


def an_export(export: ExportCosts, detail: Detail = Detail.DAY) -> AsyncGenerator[bytes]:
    return export(TenantId(uuid4()), ExportOrder(form=FileFormat.CSV, detail=detail, span=Span()))


@pytest.mark.parametrize("detail", [Detail.DAY, Detail.EVENT])
async def test_readers_that_take_nothing_keep_nobody_waiting(detail: Detail) -> None:
    ledger, export = exports()
    slow = [an_export(export, detail) for _ in range(7)]
    for one in slow:
        assert await anext(one)
    assert [piece async for piece in an_export(export)]
    assert ledger.reads == 8
    for one in slow:
        await one.aclose()


async def test_files_that_wait_are_bounded_and_make_room_when_they_are_dropped() -> None:
    _, export = exports()
    slow = [an_export(export) for _ in range(8)]
    for one in slow:
        await anext(one)
    with pytest.raises(TooManyExports):
        await anext(an_export(export))
    assert [piece async for piece in an_export(export, Detail.EVENT)], "entries are sent as they are read"
    await slow[0].aclose()
    assert [piece async for piece in an_export(export)]
    for one in slow[1:]:
        await one.aclose()
