"""Writes what is charged to whom as one file."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Final

from services.cost.domain.cost_event import CostEvent
from services.cost.domain.cost_file import Cell, CostFile, FileFormat, Told
from services.cost.domain.rollup import Span, Step
from services.cost.usecases.ledger_ports import CostFilter, ExportLine, LedgerReader
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Exhausted, Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import NANO_PER_USD

#: Largest file of days or hours: it is read at one moment, and kept until it is sent.
MOST_BYTES: Final = 32 * 1024 * 1024
_PIECE: Final = 64 * 1024
_PAGE: Final = 1000
_INSTANT: Final = timedelta(microseconds=1)
#: Exports that read at once, over all tenants. Nobody who is slow to take a file keeps others from reading.
_READING: Final = 2
#: Files of days or hours that may wait to be taken, over all tenants.
_MOST_FILES: Final = 8
_TOKENS: Final = tuple(f"{name}_tokens" for name in USAGE_CLASSES)
_WHOM: Final = ("project", "agent_name", "kind", "provider", "model")
_SUMS: Final = (
    "start_time",
    *_WHOM,
    "event_count",
    *_TOKENS,
    "cost_nano_usd",
    "cost_usd",
    "assumed_nano_usd",
    "unpriced_event_count",
    "unpriced_nano_usd",
)
_EVENTS: Final = (
    "create_time",
    "cost_event_id",
    "hold_id",
    "run_id",
    "path",
    *_WHOM,
    *_TOKENS,
    "cost_nano_usd",
    "cost_usd",
    "assumed",
    "reversal",
    "unpriced",
    "price_digest",
    "note",
)


class Detail(IntEnum):
    """What a line of an export stands for."""

    DAY = 1
    HOUR = 2
    EVENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """What to export."""

    form: FileFormat
    detail: Detail
    span: Span
    only: CostFilter = field(default_factory=CostFilter)


class TooManyExports(Exhausted):
    """Too many files wait for those who asked for them. Try again shortly."""

    reason = "TOO_MANY_EXPORTS"

    def __init__(self) -> None:
        super().__init__(
            f"{_MOST_FILES} exports are being sent already; try again in a minute", retry_after=timedelta(minutes=1)
        )


class ExportCosts:
    """Exports the ledger in pieces of at most 64 KB.

    Sums are as the ledger stood at one moment; entries are those that were written before the export began.
    """

    def __init__(self, *, ledger: LedgerReader, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._reading = asyncio.Semaphore(_READING)
        self._files = 0

    async def __call__(self, tenant: TenantId, order: ExportOrder) -> AsyncGenerator[bytes]:
        """Raises: Invalid: the file would be too large, or begins within a time of which only sums are kept;
        TooManyExports.
        """
        pieces = self._events(tenant, order) if order.detail is Detail.EVENT else self._sums(tenant, order)
        async with aclosing(pieces):
            async for piece in pieces:
                for start in range(0, len(piece), _PIECE):
                    yield piece[start : start + _PIECE]

    async def _sums(self, tenant: TenantId, order: ExportOrder) -> AsyncGenerator[bytes]:
        if self._files >= _MOST_FILES:
            raise TooManyExports
        self._files += 1
        try:
            async with self._reading:
                file = await self._file(tenant, order)
            yield file
        finally:
            self._files -= 1

    async def _file(self, tenant: TenantId, order: ExportOrder) -> bytes:
        """Reads all before any is sent: a reader that is slow keeps no transaction open."""
        step = Step.HOUR if order.detail is Detail.HOUR else Step.DAY
        start, end = order.span.start, order.span.end or self._clock.now()
        span = Span(None if start is None else step.floor(start), step.ceil(end))
        file = CostFile(order.form, _SUMS)
        written = bytearray(file.head())
        async with aclosing(self._ledger.lines(tenant, step, span, order.only, size=_PAGE)) as pages:
            async for lines in pages:
                written += file.rows(_sum_rows(lines))
                if len(written) > MOST_BYTES:
                    raise Invalid("start_time", f"makes a file of more than {MOST_BYTES >> 20} MB; ask for less time")
        return bytes(written + file.tail())

    async def _events(self, tenant: TenantId, order: ExportOrder) -> AsyncGenerator[bytes]:
        begun = self._clock.now() + _INSTANT
        span = Span(order.span.start, begun if order.span.end is None else min(order.span.end, begun))
        file = CostFile(order.form, _EVENTS)
        written, after = file.head(), None
        while True:
            async with self._reading:
                page = await self._ledger.ascending(tenant, span, order.only, size=_PAGE, after=after)
            yield written
            if not page:
                break
            written, after = file.rows(_event_rows(page)), (page[-1].created, page[-1].id)
        yield file.tail()


def _sum_rows(lines: Sequence[ExportLine]) -> Iterator[list[Cell]]:
    for line in lines:
        yield [
            line.start.isoformat(),
            Told(line.project),
            Told(line.agent_name),
            line.kind.name.lower(),
            Told(line.provider),
            Told(line.model),
            line.sums.events,
            *_counts(line.sums.usage),
            line.sums.cost,
            _dollars(line.sums.cost),
            line.sums.assumed,
            line.sums.unpriced_events,
            line.sums.unpriced,
        ]


def _event_rows(events: Sequence[CostEvent]) -> Iterator[list[Cell]]:
    for event in events:
        context = event.purpose.context
        yield [
            event.created.isoformat(),
            from_uuid("cost", event.id),
            from_uuid("hold", event.hold),
            Told(context.call_id.run_id),
            Told(context.call_id.path),
            Told(context.project),
            Told(context.agent_name),
            event.purpose.kind.name.lower(),
            Told(event.purpose.provider),
            Told(event.purpose.model),
            *_counts(event.usage),
            event.cost,
            _dollars(event.cost),
            event.assumed,
            event.reversal,
            event.unpriced,
            "" if event.price is None else event.price.hex(),
            Told(event.note),
        ]


def _counts(usage: Usage) -> list[int]:
    return [int(getattr(usage, name)) for name in USAGE_CLASSES]


def _dollars(nano_usd: int) -> str:
    """Writes an amount with all its digits, without sign of a currency: `-0.000004500`."""
    whole, rest = divmod(abs(nano_usd), NANO_PER_USD)
    return f"{'-' if nano_usd < 0 else ''}{whole}.{rest:09d}"
