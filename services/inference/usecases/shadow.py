"""Copies of calls to a shadow: made after the real answer, compared with it, and seen by nobody.

A copy is a call of its own, under law and money: its id begins with `shadow_`, the ledger books it on the agent
`shadow` (so that a budget of that agent bounds all of them) and on none of the budgets that the caller named. It works
in class BATCH, and is given up rather than keep anybody waiting.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.call_policy import CacheUse, CallPolicy, WorkClass
from services.inference.domain.deployment import DEFAULT
from services.inference.domain.media import media_bytes
from services.inference.domain.reliability.health import ITS_FAULTS
from services.inference.domain.routing.comparison import Compared, compared, is_shadowed
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.ports import MakesCalls
from services.inference.usecases.registry import MemoryRegistry
from services.meshkit.content import CallContext, CallId
from services.meshkit.content.call import SHADOW
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Copies that wait, and that are made at once.
_MOST_WAITING: Final = 64
_AT_ONCE: Final = 4
#: Pictures and documents of one copy: they stay in memory until it is made.
_MOST_MEDIA_BYTES: Final = 256 * 1024
#: Longest time of a copy, from when it is begun.
_SECONDS: Final = 60.0
_TELL_SECONDS: Final = 1.0
_POLICY: Final = CallPolicy(work_class=WorkClass.BATCH, cache=CacheUse.NO)
_QUEUE: Final = "inference_shadows"

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A route of a tenant, and the version that is its shadow."""

    tenant: TenantId
    route: str
    #: Full name.
    shadow: str


class ComparisonRecords(Protocol):
    """Remembers how routes and their shadows compare."""

    async def add(self, found: Sequence[tuple[Pair, Compared]]) -> None:
        """Adds to what is known, all of one tenant."""
        ...

    async def of(self, tenant: TenantId, route: str) -> Sequence[tuple[Pair, Compared]]:
        """Gives what is known of a route, the newest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    pair: Pair
    asked: Asked
    answer: Answer
    calls: MakesCalls


class Shadows:
    """Background work: makes the copies that wait, and tells once a second how they compare."""

    def __init__(self, registry: MemoryRegistry, records: ComparisonRecords, *, clock: Clock, ids: IdSource) -> None:
        self._registry = registry
        self._records = records
        self._clock = clock
        self._ids = ids
        self._waiting = deque[_Copy]()
        self._news = asyncio.Event()
        self._found: dict[TenantId, dict[Pair, Compared]] = {}
        self._telling = asyncio.Lock()
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)
        metrics.QUEUE_ITEMS.labels(_QUEUE).set_function(lambda: len(self._waiting))

    def pair_of(self, asked: Asked) -> Pair | None:
        """Gives the route of a call and its shadow, if the call is among those that are copied.

        What a fork asks under another law is not: the law that it goes by is named for its own run only.
        """
        tenant = asked.principal.tenant
        names = self._registry.names(tenant)
        route = names.route(asked.model or DEFAULT)
        if route is None or route.shadow is None or asked.checking or asked.context.bundle:
            return None
        if not is_shadowed(route.name, asked.key, route.shadow.permille):
            return None
        # A rollout that was promoted has made a member of it.
        if any(member.deployment == route.shadow.deployment for member in route.members):
            return None
        shadow = names.current(route.shadow.deployment)
        return None if shadow is None else Pair(tenant=tenant, route=route.name, shadow=shadow.full_name)

    def offer(self, pair: Pair, asked: Asked, answer: Answer, calls: MakesCalls) -> None:
        """Takes a copy in, if there is room for one of its size.

        Args:
            calls: makes it.
        """
        if len(self._waiting) >= _MOST_WAITING or sum(map(media_bytes, asked.prompt.parts)) > _MOST_MEDIA_BYTES:
            self._refused.inc()
            self.note(pair, Compared(skipped=1))
            return
        self._waiting.append(_Copy(pair=pair, asked=asked, answer=answer, calls=calls))
        self._news.set()

    def note(self, pair: Pair, found: Compared) -> None:
        """Takes in how a call and its copy compare."""
        of_tenant = self._found.setdefault(pair.tenant, {})
        of_tenant[pair] = of_tenant.get(pair, Compared()).plus(found)

    async def compared(self, tenant: TenantId, route: str) -> Sequence[tuple[Pair, Compared]]:
        """Gives how the answers of a route and those of its shadows compare, the newest shadow first."""
        await self._tell()
        return await self._records.of(tenant, route)

    async def __call__(self) -> None:
        """Works until cancelled; copies that wait then are not made."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._work(), name="shadow")
                while True:
                    await self._clock.sleep(_TELL_SECONDS)
                    await self._tell_if_possible()
        finally:
            await self._tell_if_possible()

    async def _work(self) -> None:
        while True:
            while self._waiting:
                await self.make(self._waiting.popleft())
            self._news.clear()
            await self._news.wait()

    async def make(self, copy: "_Copy") -> None:
        """Makes a copy and compares it. Nothing that happens to it is anybody's failure."""
        try:
            answer = await copy.calls(self._asked(copy), _pass_over, streamed=False)
        except MeshError as error:
            log.debug("a shadow did not answer", route=copy.pair.route, reason=error.reason)
            fault = error.reason in ITS_FAULTS
            self.note(copy.pair, Compared(shadow_failed=1) if fault else Compared(skipped=1))
        except Exception:
            log.exception("a copy for a shadow cannot be made", route=copy.pair.route)
            self.note(copy.pair, Compared(skipped=1))
        else:
            self.note(copy.pair, compared(copy.answer, answer))

    def _asked(self, copy: _Copy) -> Asked:
        context = copy.asked.context
        return replace(
            copy.asked,
            context=CallContext(
                call_id=CallId(run_id=self._ids.new(SHADOW), path=copy.pair.route),
                agent_name=SHADOW,
                project=context.project,
                residency_region=context.residency_region,
            ),
            model=copy.pair.shadow,
            repeatable=False,
            deadline=self._clock.monotonic() + _SECONDS,
            policy=_POLICY,
        )

    async def _tell_if_possible(self) -> None:
        try:
            await self._tell()
        except MeshError as error:
            log.debug("how shadows compare is told later", error=error.message)

    async def _tell(self) -> None:
        async with self._telling:
            for tenant in list(self._found):
                found = self._found.pop(tenant)
                try:
                    await self._records.add(list(found.items()))
                except BaseException:
                    for pair, one in found.items():
                        self.note(pair, one)
                    raise


class ShadowedCalls:
    """Makes calls, and has the answers of some compared with those of a shadow. A `MakesCalls`.

    Args:
        copies: makes the copies, as `calls` does but with nothing on record.
    """

    def __init__(self, calls: MakesCalls, *, copies: MakesCalls, shadows: Shadows) -> None:
        self._calls = calls
        self._copies = copies
        self._shadows = shadows

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """See `MakesCalls`."""
        pair = self._shadows.pair_of(asked)
        if pair is None:
            return await self._calls(asked, release, streamed=streamed)
        try:
            answer = await self._calls(asked, release, streamed=streamed)
        except MeshError as error:
            if error.reason in ITS_FAULTS:
                self._shadows.note(pair, Compared(main_failed=1))
            raise
        if not (answer.replayed or answer.cached):
            self._shadows.offer(pair, asked, answer, self._copies)
        return answer


def _pass_over(event: StreamEvent) -> None:
    """Nobody watches."""
