"""Puts together what the bandits of all replicas learn."""

import asyncio
from collections import defaultdict
from datetime import datetime
from math import isfinite
from typing import Final

from services.inference.domain.routing.lesson import ArmName, Learnt
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.learning_ports import GivenAnswer, LessonRecords
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, Invalid, MeshError, NotFound
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.telemetry.logs import logger

_SECONDS: Final = 1.0
#: What other replicas have learnt is read every so many looks.
_LOOKS: Final = 5
_FORGET_SECONDS: Final = 900.0
#: What the database says of itself, and of no tenant.
_AWAY: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED})

log = logger(__name__)


class LearnRoutes:
    """Background work: adds what this replica has learnt to the database, and reads what others have.

    While the database is away each replica chooses by what it knows, and tells it later. What a replica learnt in the
    last second before it dies is lost; what was written and not heard of is counted twice.
    """

    def __init__(self, bandits: Bandits, given: GivenAnswers, records: LessonRecords, *, clock: Clock) -> None:
        self._bandits = bandits
        self._given = given
        self._records = records
        self._clock = clock
        #: None before all was read.
        self._read: datetime | None = None
        #: One at a time: what is being told must not be read in between.
        self._telling = asyncio.Lock()

    async def __call__(self) -> None:
        """Follows until cancelled, then tells what is left."""
        away, looks, forgot = False, 0, self._clock.monotonic()
        try:
            while True:
                try:
                    await self.look(whole=looks % _LOOKS == 0)
                    if self._clock.monotonic() - forgot > _FORGET_SECONDS:
                        forgot = self._clock.monotonic()
                        await self._records.forget()
                    away = False
                except MeshError as error:
                    if not away:
                        log.warning("bandits of this replica learn alone", error=error.message)
                    away = True
                looks += 1
                await self._clock.sleep(_SECONDS)
        finally:
            try:
                await self.look(whole=False)
            except MeshError as error:
                log.warning("what bandits have just learnt is lost", error=error.message)

    async def look(self, *, whole: bool) -> None:
        """Tells what is new here and, if `whole` or for the first time, reads what is new elsewhere.

        Raises: MeshError: the database is away.
        """
        async with self._telling:
            failed = await self._tell()
            if whole or self._read is None:
                self._read, arms = await self._records.since(self._read)
                self._bandits.know(arms)
        for failure in failed.values():
            raise failure

    async def judge(self, principal: Principal, hold_id: str, quality: float) -> None:
        """Takes in how good an answer was, once, up to a day after it.

        Raises: Invalid; NotFound: no route with a bandit or a rollout gave such an answer, or too long ago;
            AlreadyExists.
        """
        if not (isfinite(quality) and 0 <= quality <= 1):
            raise Invalid("score", "must be 0 to 1")
        try:
            await self._judge(principal, hold_id, quality)
        except NotFound:
            # Another replica may have answered, and tells it once a second.
            await self._clock.sleep(2 * _SECONDS)
            await self._judge(principal, hold_id, quality)

    async def _judge(self, principal: Principal, hold_id: str, quality: float) -> None:
        async with self._telling:
            failed = await self._tell()
            # What goes wrong with other tenants is theirs, and is heard of at the next look.
            if principal.tenant in failed:
                raise failed[principal.tenant]
            arms = await self._records.judge(principal.tenant, hold_id, quality, project=principal.project)
            self._bandits.know(arms)

    async def _tell(self) -> dict[TenantId, MeshError]:
        """Tells what is new here; gives what went wrong with which tenants. Raises: MeshError: no database answers."""
        of_tenant: dict[TenantId, tuple[dict[ArmName, Learnt], list[GivenAnswer]]] = defaultdict(lambda: ({}, []))
        for name, one in self._bandits.taken().items():
            of_tenant[name.tenant][0][name] = one
        for whose, answers in self._given.taken().items():
            of_tenant[whose][1].extend(answers)
        failed: dict[TenantId, MeshError] = {}
        try:
            while of_tenant:
                tenant, (learnt, answered) = next(iter(of_tenant.items()))
                try:
                    arms = await self._records.add(tenant, learnt, answered)
                except MeshError as error:
                    if error.kind in _AWAY:
                        raise
                    # What goes wrong with one tenant keeps no other from being told.
                    failed[tenant] = error
                    self._put_back(learnt, answered)
                else:
                    self._bandits.know(arms)
                del of_tenant[tenant]
        finally:
            for learnt, answered in of_tenant.values():
                self._put_back(learnt, answered)
        return failed

    def _put_back(self, learnt: dict[ArmName, Learnt], answered: list[GivenAnswer]) -> None:
        self._bandits.put_back(learnt)
        self._given.put_back(answered)
