"""Follows violations as they are recorded."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from services.meshkit.core.identity import TenantId
from services.policy.domain.violation import Violation
from services.policy.usecases.ports import ViolationFilter, ViolationStore
from services.policy.usecases.violation_news import ViolationNews, Watch

_PAGE: Final = 200


class WatchViolations:
    """Gives violations in order and without end. None is ever skipped: sequences become visible in order."""

    def __init__(self, *, store: ViolationStore, news: ViolationNews) -> None:
        self._store = store
        self._news = news

    async def __call__(
        self, tenant: TenantId, wanted: ViolationFilter, *, after: int, begun: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Violation]:
        """Gives those after the sequence `after`, then those to come.

        Args:
            begun: called when all that there are have been given and others are awaited; each time anew.
        Raises: TooManyWatches; Unavailable: the database is away.
        """
        with self._news.watch(tenant) as watch:
            async for violation in self._follow(tenant, wanted, after, watch, begun):
                yield violation

    async def _follow(
        self,
        tenant: TenantId,
        wanted: ViolationFilter,
        after: int,
        watch: Watch,
        begun: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[Violation]:
        while True:
            await watch.wait()
            while page := await self._store.following(tenant, wanted, after=after, most=_PAGE):
                for violation in page:
                    yield violation
                after = page[-1].sequence
                if len(page) < _PAGE:
                    break
            await begun()
