"""Keeps what this replica knows of the registry where the next start finds it."""

from datetime import datetime, timedelta
from typing import Final

from services.inference.usecases.judge_rollouts import JudgeRollouts
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import KeepsRegistry, KnownRegistry
from services.meshkit.core.clock import Clock

_EVERY_SECONDS: Final = 1.0
#: What has not changed is written anew as often, so that it says until when that was so.
_STILL_SO: Final = timedelta(minutes=10)
#: Pause after what could not be kept, seconds.
_AGAIN_SECONDS: Final = 10.0


class KeptRegistry:
    """Background work: keeps what is known as it changes, and what this replica took back without its database."""

    def __init__(self, kept: KeepsRegistry, news: RegistryNews, judge: JudgeRollouts, *, clock: Clock) -> None:
        self._kept = kept
        self._news = news
        self._judge = judge
        self._clock = clock
        #: What was kept last.
        self._known: KnownRegistry | None = None
        #: Until when the database was heard, by this process or by the one whose file it goes by.
        self._heard: datetime | None = None
        self._not_before = 0.0

    async def recall(self) -> None:
        """Goes by what an earlier process kept, until the database is heard."""
        known = await self._kept.read()
        if known is not None:
            self._news.recall(known.state)
            self._judge.recall(known.owed)
            # Not by when this process began: each start would make what is known younger than it is.
            self._known, self._heard = known, known.heard

    async def __call__(self) -> None:
        """Keeps until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.keep()

    async def keep(self) -> None:
        """Keeps what has changed, or until when nothing has; nothing before anything is known."""
        if (seconds := self._news.heard_seconds_ago) is not None:
            self._heard = self._clock.now() - timedelta(seconds=seconds)
        state, now = self._news.state, self._clock.monotonic()
        if state is None or self._heard is None or now < self._not_before:
            return
        known = KnownRegistry(state=state, owed=self._judge.owed, heard=self._heard)
        before = self._known
        if before is not None and before == known and known.heard - before.heard < _STILL_SO:
            return
        if await self._kept.write(known):
            self._known = known
        else:
            self._not_before = now + _AGAIN_SECONDS
