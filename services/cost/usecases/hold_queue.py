"""Calls whose money is only held by others wait here until some comes free, in the order of `domain/hold_lines.py`.

A Reserve that may wait is committed like any other operation. If what it needs is only held, it gets a place in line in
the same step, before another group is decided. It is tried again, in a group like any other, when a budget that
it waits for has changed in this process, and now and then because other replicas free money, too.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Final, Self

from services.cost.domain.errors import BudgetExhausted, TooManyWaiting
from services.cost.domain.hold import Hold
from services.cost.domain.hold_lines import HoldLines, RequestKey
from services.cost.usecases.askers import WAITING, Asker, Behind, Group, Item, Made, Wait, operation_of, too_late
from services.cost.usecases.detour import Detour
from services.cost.usecases.report import report_refusals
from services.cost.usecases.spend import Abandon, Foreseen, Outcome, Reserve, Spend, digest_of
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError, RequestIdReused, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

NAME: Final = "cost.waiting"
#: How often waits are looked through for those whose time is up, seconds.
_TICK_SECONDS: Final = 0.05
#: Most lines whose first call is tried again at one poll.
_MOST_POLLED: Final = 64


class HoldQueue:
    """The waits of one process. `commit` is what its group commit runs; open it over that.

    Args:
        most: askers that may wait; one tenant has at most half of that.
        poll_seconds: pause after which the first of each line is tried again without news.
        news: set when a budget that is waited for may have more room.
    """

    def __init__(
        self,
        *,
        spend: Spend,
        lines: HoldLines,
        news: asyncio.Event,
        clock: Clock,
        most: int,
        poll_seconds: float,
    ) -> None:
        self._spend = spend
        self._lines = lines
        self._news = news
        self._clock = clock
        self._most = most
        self._poll_seconds = poll_seconds
        self._waits: dict[RequestKey, Wait] = {}
        self._of_tenant: Counter[TenantId] = Counter()
        self._asking = 0
        self._orphans: list[Hold] = []
        self._behind: set[asyncio.Task[None]] = set()
        self._someone = asyncio.Event()
        self._poll = False
        self._closing = False
        self._group: Group | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._depth = metrics.QUEUE_ITEMS.labels(NAME)

    def over(self, group: Group) -> Self:
        """Names the group commit that runs `commit`."""
        self._group = group
        return self

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._retry(), name=NAME),
            asyncio.create_task(self._tick(), name=f"{NAME}-tick"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all waits with UNAVAILABLE, and frees what was held for those who went."""
        for wait in list(self._waits.values()):
            self._end(wait, Unavailable("cost"))
        # A round that has begun is carried out: what it makes is nobody's any more, and is freed.
        self._closing = True
        self._news.set()
        (retry, tick), self._tasks = self._tasks, []
        tick.cancel()
        await asyncio.gather(retry, tick, return_exceptions=True)
        while self._orphans or self._behind:
            await self._free_orphans()
            await asyncio.gather(*self._behind)

    def asker(self, order: Reserve) -> Asker:
        """Takes a request on that may wait: give it to the group, and have it leave in the end."""
        return Asker(self, order, self._clock.monotonic())

    def foresee(self, items: Sequence[Item]) -> Foreseen | None:
        """Decides a group while another one is written. See `Spend`; None when somebody waits, or is late."""
        now = self._clock.monotonic()
        if len(self._lines) or any(too_late(item, now) is not None for item in items):
            return None
        return self._spend.foresee([operation_of(item) for item in items])

    async def commit(
        self, items: Sequence[Item], *, patiently: bool = False, foreseen: Foreseen | None = None
    ) -> Sequence[Outcome | Asker]:
        """Carries out a group of items. See `Spend`; groups of other tenants may be carried out meanwhile."""
        now = self._clock.monotonic()
        late = {index: error for index, item in enumerate(items) if (error := too_late(item, now)) is not None}
        if len(late) == len(items):
            # Nobody is left whose rows could be looked at.
            return list(late.values())
        alive = [item for index, item in enumerate(items) if index not in late] if late else items
        # Whoever waits by now comes first.
        still = None if late or len(self._lines) else foreseen
        operations = [operation_of(item) for item in alive]
        decided = await self._spend.decide(operations, patiently=patiently, foreseen=still)
        outcomes: list[Outcome | Asker] = [
            self._after(item, outcome, now) if isinstance(item, WAITING) else outcome
            for item, outcome in zip(alive, decided.outcomes, strict=True)
        ]
        if len(self._lines):
            self._lines.moved((*decided.changes.seen_budgets, *decided.changes.budgets))
        report_refusals(
            outcome
            for item, outcome in zip(alive, outcomes, strict=True)
            if not (isinstance(item, Wait) and self._in_line(item))
        )
        if not late:
            return outcomes
        found = iter(outcomes)
        return [late[index] if index in late else next(found) for index in range(len(items))]

    def orphan(self, hold: Hold) -> None:
        """Has a hold freed that was made for somebody who went away before hearing of it."""
        self._orphans.append(hold)
        self._news.set()

    def left(self, asker: Asker) -> None:
        """Learns that an asker went away, told or not."""
        made, wait = asker.made, asker.wait
        if made is not None:
            made.askers -= 1
            if made.askers == 0 and not made.told:
                self.orphan(made.hold)
        if wait is not None:
            self._detach(wait, asker)
            if not wait.askers and not wait.trying:
                self._forget(wait)

    def _after(self, item: Asker | Wait, outcome: Outcome, now: float) -> Outcome | Asker:
        """Gives or keeps a place in line. Nothing else of this tenant is decided before this is done."""
        if isinstance(outcome, BudgetExhausted) and outcome.held_back is not None:
            return self._kept(item, outcome) if isinstance(item, Wait) else self._parked(item, outcome, now)
        if isinstance(item, Wait):
            self._end(item, outcome)
            return outcome
        if isinstance(outcome, Hold):
            if item.gone:
                self.orphan(outcome)
            else:
                item.made = Made(outcome, askers=1)
        return outcome

    def _parked(self, asker: Asker, refusal: BudgetExhausted, now: float) -> Outcome | Asker:
        order = asker.order
        key = order.tenant, order.request_id
        if asker.gone or asker.until <= now or refusal.held_back is None:
            return refusal
        if self._asking >= self._most or self._of_tenant[order.tenant] >= self._most // 2:
            metrics.QUEUE_REFUSED.labels(NAME).inc()
            return TooManyWaiting(most=self._most)
        wait = self._waits.get(key)
        if wait is not None and digest_of(wait.order) != digest_of(order):
            return RequestIdReused(str(order.request_id))
        place = self._lines.join(key, refusal.held_back)
        if wait is None:
            wait = self._waits[key] = Wait(order, place, refusal)
        wait.askers.append(asker)
        asker.wait = wait
        asker.future = asyncio.get_running_loop().create_future()
        self._asking += 1
        self._of_tenant[order.tenant] += 1
        self._depth.set(self._asking)
        self._someone.set()
        return asker

    def _kept(self, wait: Wait, refusal: BudgetExhausted) -> BudgetExhausted:
        wait.refusal = refusal
        if refusal.held_back is not None and self._in_line(wait):
            self._lines.join(wait.place.key, refusal.held_back)
        return refusal

    def _end(self, wait: Wait, outcome: Outcome) -> None:
        """Tells everybody who asks for a request what became of it."""
        self._forget(wait)
        askers = [asker for asker in wait.askers if asker.future is not None and not asker.future.done()]
        for asker in list(wait.askers):
            self._detach(wait, asker)
        made = Made(outcome, askers=len(askers)) if isinstance(outcome, Hold) else None
        if made is not None and not askers:
            self.orphan(made.hold)
        for asker in askers:
            self._tell(asker, outcome, made)

    def _tell(self, asker: Asker, outcome: Outcome, made: Made | None) -> None:
        future = asker.future
        if future is None or future.done():
            return
        seconds = self._clock.monotonic() - asker.since
        metrics.HOLD_WAIT.labels(_word_of(outcome)).observe(seconds)
        if isinstance(outcome, Hold):
            asker.made = made
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
            # Looked at here, so that one whose asker has just gone is not called unhandled.
            future.exception()

    def _detach(self, wait: Wait, asker: Asker) -> None:
        if asker.wait is None:
            return
        asker.wait = None
        wait.askers.remove(asker)
        self._asking -= 1
        self._of_tenant[asker.order.tenant] -= 1
        if self._of_tenant[asker.order.tenant] == 0:
            del self._of_tenant[asker.order.tenant]
        self._depth.set(self._asking)

    def _forget(self, wait: Wait) -> None:
        if self._in_line(wait):
            del self._waits[wait.place.key]
            self._lines.leave(wait.place)

    def _in_line(self, wait: Wait) -> bool:
        # Its request may have been asked for anew since it ended.
        return self._waits.get(wait.place.key) is wait

    async def _tick(self) -> None:
        """Ends the waits whose time is up, and has lines polled."""
        polled = self._clock.monotonic()
        while True:
            if not self._waits:
                self._someone.clear()
                await self._someone.wait()
                polled = self._clock.monotonic()
            await self._clock.sleep(_TICK_SECONDS)
            now = self._clock.monotonic()
            self._give_up(now)
            if now - polled >= self._poll_seconds:
                polled, self._poll = now, True
                self._news.set()

    def _give_up(self, now: float) -> None:
        for wait in list(self._waits.values()):
            # What is being decided has an outcome in a moment.
            for asker in [] if wait.trying else [one for one in wait.askers if one.until <= now]:
                self._detach(wait, asker)
                self._tell(asker, wait.refusal, None)
                report_refusals((wait.refusal,))
            if not wait.askers and not wait.trying:
                self._forget(wait)

    async def _retry(self) -> None:
        """Tries again what may pass now, a group at a time, until cancelled."""
        while not self._closing:
            await self._news.wait()
            self._news.clear()
            polled, self._poll = self._poll, False
            places = self._lines.due(self._clock.now())
            if polled:
                places = sorted({*places, *self._lines.firsts(_MOST_POLLED)}, key=attrgetter("number"))
            waits = [wait for place in places if not (wait := self._waits[place.key]).trying]
            for wait in waits:
                wait.trying = True
            try:
                await asyncio.gather(self._try(waits), self._free_orphans())
            except Exception:  # a consumer loop: they are tried at the next round, and the loop goes on
                log.exception("a round of waiting calls failed")
                for wait in waits:
                    wait.trying = False

    async def _try(self, waits: Sequence[Wait]) -> None:
        outcomes = await self._submitted(waits)
        for wait, outcome in zip(waits, outcomes, strict=True):
            if isinstance(outcome, Detour):
                self._follow(self._try_behind(wait, outcome))
            else:
                self._tried(wait, outcome)

    async def _try_behind(self, wait: Wait, detour: Behind) -> None:
        self._tried(wait, await detour.outcome())
        # News that came meanwhile passed it by.
        self._poll = True
        self._news.set()

    def _tried(self, wait: Wait, outcome: Hold | Asker | MeshError) -> None:
        wait.trying = False
        if not self._in_line(wait):
            return
        if isinstance(outcome, MeshError) and not isinstance(outcome, BudgetExhausted):
            # The group failed as a whole: nobody had a place taken away.
            self._end(wait, outcome)
        elif not wait.askers:
            self._forget(wait)

    def _follow(self, later: Coroutine[None, None, None]) -> None:
        """Has one who waits apart looked after without the others waiting for it."""
        task = asyncio.create_task(later, name=f"{NAME}-behind")
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _free_orphans(self) -> None:
        orphans, self._orphans = self._orphans, []
        outcomes = await self._submitted([Abandon(tenant=hold.tenant, hold=hold.id, made=hold) for hold in orphans])
        for hold, outcome in zip(orphans, outcomes, strict=True):
            if isinstance(outcome, Detour):
                self._follow(self._free_behind(hold, outcome))
            else:
                _freed(hold, outcome)

    async def _free_behind(self, hold: Hold, detour: Behind) -> None:
        _freed(hold, await detour.outcome())

    async def _submitted(self, items: Sequence[Item]) -> Sequence[Hold | Asker | Behind | MeshError]:
        if not items or self._group is None:
            return ()
        try:
            return await self._group.submit_many(items)
        except MeshError as error:
            return [error] * len(items)
        except Exception:  # a consumer loop: those who wait get it, the loop goes on
            log.exception("a group of waiting calls failed")
            return [Internal("deciding a group of calls failed")] * len(items)


def _freed(hold: Hold, outcome: Hold | Asker | MeshError) -> None:
    if isinstance(outcome, MeshError):
        log.warning("a hold that nobody waits for is left to expire", hold_id=str(hold.id), error=str(outcome))


def _word_of(outcome: Outcome) -> str:
    if isinstance(outcome, Hold):
        return "got"
    return outcome.cause.value if isinstance(outcome, BudgetExhausted) else outcome.kind.value
