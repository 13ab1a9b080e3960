"""Keeps what this replica knows of the registry where the next start finds it."""

from typing import Final

from services.inference.usecases.judge_rollouts import JudgeRollouts
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import KeepsRegistry, KnownRegistry
from services.meshkit.core.clock import Clock

_EVERY_SECONDS: Final = 1.0
#: Pause between two notes that nothing has changed, seconds.
_STILL_SO_SECONDS: Final = 60.0


class KeptRegistry:
    """Background work: keeps what is known as it changes, and what this replica took back without its database."""

    def __init__(self, kept: KeepsRegistry, news: RegistryNews, judge: JudgeRollouts, *, clock: Clock) -> None:
        self._kept = kept
        self._news = news
        self._judge = judge
        self._clock = clock
        #: What was kept last.
        self._known: KnownRegistry | None = None
        self._noted = 0.0

    async def recall(self) -> None:
        """Goes by what an earlier process kept, until the database is heard."""
        known = await self._kept.read()
        if known is not None:
            self._news.recall(known.state)
            self._judge.recall(known.owed)

    async def __call__(self) -> None:
        """Keeps until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.keep()

    async def keep(self) -> None:
        """Keeps what is known, or notes that it is still so; nothing before anything is known."""
        state = self._news.state
        if state is None:
            return
        known, now = KnownRegistry(state=state, owed=self._judge.owed), self._clock.monotonic()
        if known != self._known:
            await self._kept.write(known)
        elif self._news.heard and now - self._noted >= _STILL_SO_SECONDS:
            await self._kept.still_so()
        else:
            return
        self._known, self._noted = known, now
