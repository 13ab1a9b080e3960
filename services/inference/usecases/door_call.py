"""A call at a door that nobody can repeat by an id: nothing is claimed and nothing recorded.

law before ∥ hold, as leaving now ─▶ provider (law during) ─▶ law after ─▶ answer ─▶ settle

The hold is the one commit before the prompt leaves, and the durable fact of the call: a crash before its settlement
leaves it to expire into `assumed`. Source: docs/decisions/0018-doors.md
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from services.inference.domain.answer import Answer, Restarted, StreamEvent
from services.inference.domain.call import Claimed, RecordedCall, Unjudged
from services.inference.domain.deployment import DeploymentVersion, Task
from services.inference.domain.errors import AnswerBrokeOff, AnswerUnjudged
from services.inference.usecases.asked import Asked
from services.inference.usecases.ports import HoldClient, MakesCalls
from services.meshkit.calls.ports import DispatchedHold, PendingSettlement, Settlement
from services.meshkit.content import CallContext, CallKey, Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: A hold outlives the deadline of its call by this long: time to settle.
_HOLD_MARGIN_SECONDS: Final = 60.0
_HOLD_MOST_SECONDS: Final = 3600.0
#: Settlements and releases that wait or are on their way; beyond, calls wait for theirs.
_MOST_WAITING: Final = 2000
#: Settlements that are sent at once: they share frames.
_AT_ONCE: Final = 64
#: Nobody waits for them, so they gather for a moment, and leave frames and commits to calls that wait.
_GATHER_SECONDS: Final = 0.05
_PAUSE_SECONDS: Final = 1.0
#: How long a service that stops goes on trying: cost may be away just then, and back soon.
_LAST_SECONDS: Final = 6.0
#: What it gives holds that are on their way to be freed.
_FREEING_SECONDS: Final = 2.0
#: Tries of one settlement; its hold lapses into `assumed` after that.
_TRIES: Final = 30
#: Refusals that a repeat may overcome.
_MAY_PASS: Final = frozenset(
    {ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.CANCELLED, ErrorKind.EXHAUSTED, ErrorKind.INTERNAL}
)
_SETTLING: Final = "inference_door_settlements"


class DoorCall:
    """Makes calls that nobody can repeat.

    Args:
        calls: gives each its seat, holds for it by `DoorHolds`, and records it with `Unrecorded`.
    """

    def __init__(self, calls: MakesCalls) -> None:
        self._calls = calls

    async def answer(self, asked: Asked) -> Answer:
        """Gives the whole answer. See `MakesCalls` for what it raises."""
        return await self._calls(asked, _pass_over, streamed=False)

    async def stream(self, asked: Asked) -> AsyncGenerator[StreamEvent]:
        """Gives text as the law passes it, and the answer as the last event. Closing it ends the call.

        Raises: as `answer`; AnswerBrokeOff when another model would have to begin anew after text was shown.
        """
        events: deque[StreamEvent] = deque()
        news = asyncio.Event()

        def release(event: StreamEvent) -> None:
            if isinstance(event, Restarted):
                raise AnswerBrokeOff(asked.model)
            events.append(event)
            news.set()

        making = asyncio.create_task(self._calls(asked, release, streamed=True), name="door call")
        making.add_done_callback(lambda _: news.set())
        try:
            while not making.done() or events:
                await news.wait()
                news.clear()
                while events:
                    yield events.popleft()
            yield making.result()
        finally:
            if not making.done():
                making.cancel()
                await asyncio.wait((making,))
            if not making.cancelled():
                making.exception()  # Looked at here, so that one nobody waited for is not called unhandled.


@dataclass(slots=True, kw_only=True)
class _Ahead:
    """The money of one call: a hold that was begun before it was asked for."""

    provider: str
    model: str
    bound: Usage
    #: None once it was taken.
    holding: "asyncio.Task[DispatchedHold] | None"
    #: Holds that the call got.
    holds: list[str] = field(default_factory=list[str])


class DoorHolds:
    """Holds money while the law looks at the prompt, and charges it after the answer. `HoldClient` and `HoldsAhead`.

    Settlements that wait are lost with the process: their holds expire into `assumed`, visibly.
    """

    def __init__(self, holds: HoldClient, *, clock: Clock) -> None:
        self._holds = holds
        self._clock = clock
        self._ahead: dict[CallKey, _Ahead] = {}
        self._amounts: dict[tuple[TenantId, str], NanoUsd] = {}
        self._waiting: deque[_Owed] = deque()
        #: Settlements that are on their way; those that cost does not take wait again.
        self._paying = 0
        #: Ends with this object's own work.
        self._freeing: set[asyncio.Task[None]] = set()
        #: True once what waits is looked at by nobody any more.
        self._over = False
        self._news = asyncio.Event()
        self._depth = metrics.QUEUE_ITEMS.labels(_SETTLING)
        self._refused = metrics.QUEUE_REFUSED.labels(_SETTLING)

    @asynccontextmanager
    async def ahead(self, asked: Asked, first: DeploymentVersion) -> AsyncGenerator[None]:
        """See `HoldsAhead.ahead`."""
        bound = asked.bound(first)
        left = max(asked.deadline - self._clock.monotonic(), 0.0)
        ttl = timedelta(seconds=min(left + _HOLD_MARGIN_SECONDS, _HOLD_MOST_SECONDS))
        holding = self._holds.hold(
            asked.principal,
            asked.context,
            task=Task.GENERATE,
            provider=first.payee,
            model=first.model,
            bound=bound,
            ttl=ttl,
        )
        ahead = _Ahead(
            provider=first.payee,
            model=first.model,
            bound=bound,
            holding=asyncio.create_task(holding, name="hold ahead"),
        )
        self._ahead[asked.key] = ahead
        try:
            yield
        finally:
            del self._ahead[asked.key]
            for hold_id in ahead.holds:
                self._amounts.pop((asked.principal.tenant, hold_id), None)
            if ahead.holding is not None:
                await self._free_soon(asked.principal, ahead.holding)

    async def hold(
        self,
        principal: Principal,
        context: CallContext,
        *,
        task: Task,
        provider: str,
        model: str,
        bound: Usage,
        ttl: timedelta,
        cheapest: bool = False,
    ) -> DispatchedHold:
        """See `HoldClient.hold`; gives the one that was begun ahead, where it is for this attempt."""
        ahead = self._ahead.get(CallKey(tenant=principal.tenant, call_id=context.call_id))
        hold: DispatchedHold | None = None
        if ahead is not None and ahead.holding is not None:
            holding, ahead.holding = ahead.holding, None
            fits = (ahead.provider, ahead.model, cheapest) == (provider, model, False) and _covers(ahead.bound, bound)
            if fits:
                hold = await self._taken(principal, holding)
            else:
                # The law made the prompt longer, or another is asked first.
                await self._free_soon(principal, holding)
        if hold is None:
            hold = await self._holds.hold(
                principal, context, task=task, provider=provider, model=model, bound=bound, ttl=ttl, cheapest=cheapest
            )
        if ahead is not None:
            ahead.holds.append(hold.id)
            self._amounts[principal.tenant, hold.id] = hold.amount
        return hold

    async def settle(self, principal: Principal, hold_id: str, usage: Usage | None, /) -> NanoUsd:
        """See `Holds.settle`, but soon instead of now; gives the most that will be charged."""
        amount = self._amounts.get((principal.tenant, hold_id))
        if amount is None or self._over or self._full:
            self._refused.inc()
            return await self._holds.settle(principal, hold_id, usage)
        self._put(_Owed(hold_id, partial(self._holds.settle, principal, hold_id, usage)))
        return amount

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """See `Holds.release`."""
        await self._holds.release(principal, hold_id, dispatched_unbilled=dispatched_unbilled)

    async def __call__(self) -> None:
        """Settles and frees until cancelled, then deals with what is left."""
        try:
            while True:
                await self._news.wait()
                await self._clock.sleep(_GATHER_SECONDS)
                self._news.clear()
                while self._waiting:
                    if not await self._settle_some():
                        await self._clock.sleep(_PAUSE_SECONDS)
        finally:
            try:
                await asyncio.gather(self._end_freeing(), self._settle_the_rest())
            finally:
                self._over = True

    @property
    def _full(self) -> bool:
        return len(self._waiting) + self._paying + len(self._freeing) >= _MOST_WAITING

    async def _end_freeing(self) -> None:
        if self._freeing:
            await asyncio.wait(self._freeing, timeout=_FREEING_SECONDS)
        for freeing in self._freeing:
            freeing.cancel()
        await asyncio.gather(*self._freeing, return_exceptions=True)

    def _put(self, owed: "_Owed") -> None:
        self._waiting.append(owed)
        self._depth.set(len(self._waiting))
        self._news.set()

    async def _settle_the_rest(self) -> None:
        end = self._clock.monotonic() + _LAST_SECONDS
        # Whoever stops this process waits no longer, also where cost neither takes nor refuses.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                while self._waiting or self._freeing:
                    if self._waiting and await self._settle_some():
                        continue
                    if self._clock.monotonic() >= end:
                        return
                    await self._clock.sleep(_PAUSE_SECONDS if self._waiting else _GATHER_SECONDS)

    async def _settle_some(self) -> bool:
        """Settles those that wait longest; False when cost does not take them now."""
        group = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
        self._paying = len(group)
        try:
            return all(await asyncio.gather(*(self._settled(owed) for owed in group)))
        except asyncio.CancelledError:
            # What was charged already is charged no second time.
            self._waiting.extendleft(reversed(group))
            raise
        finally:
            self._paying = 0
            self._depth.set(len(self._waiting))

    async def _settled(self, owed: "_Owed") -> bool:
        try:
            await owed.pay()
        except MeshError as error:
            owed.tries += 1
            if error.kind in _MAY_PASS and owed.tries < _TRIES and not self._over:
                self._put(owed)
                return False
            log.warning("a door's hold is left to expire", hold_id=owed.hold_id, error=error.message)
        except Exception:
            # A loop for all calls: a fault of ours in one settlement must not stop the others.
            log.exception("a door's hold is left to expire", hold_id=owed.hold_id)
        return True

    async def _taken(self, principal: Principal, holding: "asyncio.Task[DispatchedHold]") -> DispatchedHold:
        """Waits for the hold. Who gives up meanwhile leaves nothing held."""
        try:
            return await asyncio.shield(holding)
        except asyncio.CancelledError:
            await self._free_soon(principal, holding)
            raise

    async def _free_soon(self, principal: Principal, holding: "asyncio.Task[DispatchedHold]") -> None:
        """Has a hold freed that pays for nothing. It may still wait for money, which its caller need not."""
        full = self._full
        freeing = asyncio.create_task(self._free(principal, holding), name="free a hold")
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        if full:
            self._refused.inc()
            await asyncio.wait((freeing,))

    async def _free(self, principal: Principal, holding: "asyncio.Task[DispatchedHold]") -> None:
        """Has a hold freed that pays for nothing, once it is there."""
        try:
            hold = await holding
        except MeshError as error:
            log.debug("a hold that was begun ahead is not there", error=error.message)
        except Exception:
            log.exception("a hold that was begun ahead is not there")
        else:
            owed = _Owed(hold.id, partial(self._holds.release, principal, hold.id, dispatched_unbilled=True))
            try:
                await self._settled(owed)
            except asyncio.CancelledError:
                self._put(owed)
                raise


@dataclass(slots=True)
class _Owed:
    """A hold that is to be settled or freed."""

    hold_id: str
    pay: Callable[[], Awaitable[object]]
    tries: int = 0


class Unrecorded:
    """Keeps no calls: a `CallStore` for calls that nobody can repeat."""

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | Claimed:
        """Nothing stands in the way."""
        return Claimed()

    async def give_back(self, key: CallKey) -> None:
        """There is nothing to give back."""

    async def extend_claims(self, keys: Sequence[CallKey]) -> None:
        """Nothing is claimed."""

    async def free_claims(self, keys: Sequence[CallKey]) -> None:
        """Nothing is claimed."""

    async def acknowledge(self, keys: Sequence[CallKey]) -> None:
        """Nothing is kept."""

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """Gives it back. Raises: AnswerUnjudged: nobody could have it judged later."""
        if isinstance(recorded.outcome, Unjudged):
            raise AnswerUnjudged(recorded.hold_id)
        return recorded

    async def judge(self, recorded: RecordedCall) -> RecordedCall:
        """Gives it back."""
        return recorded

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """There is nothing to mark."""

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        """Nothing is."""
        return []

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        """There is nothing to forget."""
        return 0


def _covers(held: Usage, needed: Usage) -> bool:
    return all(getattr(held, name) >= getattr(needed, name) for name in USAGE_CLASSES)


def _pass_over(event: StreamEvent) -> None:
    """Nobody watches."""
