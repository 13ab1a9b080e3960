"""The judge of rollouts: takes back what does harm and lets grow what does not, by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from services.inference.domain.errors import RolloutDecided, RolloutNotFound
from services.inference.domain.rollout.judgement import Judgement, Verdict, judge
from services.inference.domain.rollout.rollout import JUDGE, Rollout, RolloutState
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_ports import RolloutRecords
from services.inference.usecases.run_rollouts import RunRollouts
from services.meshkit.core.audit import mesh_acts
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import nothing_to_repeat
from services.meshkit.telemetry.logs import logger

_SECONDS: Final = 1.0
#: Pause between two looks for rollouts that ended long ago, seconds.
_FORGET_SECONDS: Final = 900.0
#: Longest wait for the database when somebody wants a rollout taken back, seconds.
_MOST_SECONDS: Final = 3.0
_ACTION: Final = "models.write"
#: Bad events that are kept for a database that is away, of one rollout.
_MOST_FRESH: Final = 100_000
#: What goes wrong with one rollout while the database answers.
_OF_ONE: Final = frozenset({ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.EXISTS, ErrorKind.PRECONDITION})

log = logger(__name__)


class JudgeRollouts:
    """Background work. Every second each replica says what it has seen, and one of them decides by all of it.

    While the database is away, each replica goes by what it has seen itself. It only takes back then, which does no
    harm, keeps to it, and makes it durable once it can: the first decision stands.
    """

    def __init__(
        self,
        *,
        registry: MemoryRegistry,
        observe: ObserveRollouts,
        records: RolloutRecords,
        rollouts: RunRollouts,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._observe = observe
        self._records = records
        self._rollouts = rollouts
        self._clock = clock
        #: Rollouts that were taken back here and are not durably so.
        self._owed: dict[str, tuple[TenantId, Rollout]] = {}
        #: When what nobody needs any more is forgotten next, on the monotonic clock.
        self._forget_at = 0.0
        #: True while the database is away.
        self._alone = False

    async def __call__(self) -> None:
        """Judges until cancelled."""
        while True:
            await self._clock.sleep(_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Judges once."""
        try:
            await self._pay()
            for tenant, rollout in self._registry.running():
                with _apart(rollout):
                    await self._tell(tenant, rollout)
            if self._registry.running() or self._clock.monotonic() >= self._forget_at:
                await self._judge()
        except MeshError as error:
            if not self._alone:
                log.warning("each replica judges rollouts by what it has seen itself", error=error.message)
            self._alone = True
            self._decide_alone()
        else:
            self._alone = False

    def take_back(self, tenant: TenantId, rollout: Rollout, *, by: str, reason: str) -> Rollout:
        """Takes a rollout back on this replica at once, and in the database as soon as that is there.

        Raises: RolloutDecided: it is promoted.
        """
        decided = rollout.rolled_back(now=self._clock.now(), by=by, reason=reason)
        self._registry.take_back(decided)
        self._owed[rollout.id] = tenant, decided
        return decided

    @property
    def owed(self) -> tuple[tuple[TenantId, Rollout], ...]:
        """Gives what was taken back here and is not durably so."""
        return tuple(self._owed.values())

    def recall(self, owed: Sequence[tuple[TenantId, Rollout]]) -> None:
        """Keeps to what an earlier process took back, and makes it durable."""
        for tenant, rollout in owed:
            self._registry.take_back(rollout)
            self._owed[rollout.id] = tenant, rollout

    async def _tell(self, tenant: TenantId, rollout: Rollout) -> None:
        observed = self._observe.of(rollout.id)
        if observed is None:
            return
        fresh, observed.fresh = observed.fresh, []
        try:
            await self._records.add(tenant, rollout.id, fresh, observed.watch.tallies, step=observed.watch.step)
        except MeshError:
            observed.fresh = (fresh + observed.fresh)[:_MOST_FRESH]
            raise

    async def _judge(self) -> None:
        """Decides what is to be decided, unless another replica is at it."""
        async with self._records.judging() as mine:
            if mine:
                for tenant, rollout in self._registry.running():
                    with _apart(rollout):
                        await self._decide(tenant, rollout)
                await self._forget()

    async def _decide(self, tenant: TenantId, rollout: Rollout) -> None:
        found = judge(rollout, await self._records.judged(tenant, rollout), now=self._clock.now())
        if found.verdict is Verdict.BACK:
            await self._carry_out(self._rollouts.roll_back, tenant, rollout, found)
        elif found.verdict is Verdict.STEP:
            # A share that has grown meanwhile is not the one that was judged.
            await self._carry_out(partial(self._rollouts.promote, revision=rollout.revision), tenant, rollout, found)

    async def _forget(self) -> None:
        if self._clock.monotonic() >= self._forget_at:
            self._forget_at = self._clock.monotonic() + _FORGET_SECONDS
            await self._records.forget()

    async def _carry_out(
        self, verb: Callable[..., Awaitable[Rollout]], tenant: TenantId, rollout: Rollout, found: Judgement
    ) -> None:
        facts = {"verdict": found.verdict.value, "reason": found.reason}
        try:
            with mesh_acts("inference", tenant, action=_ACTION, target=rollout.id, details=facts):
                decided = await verb(tenant, rollout.id, by=JUDGE, reason=found.reason)
        except (RolloutDecided, RolloutNotFound):
            # Somebody was faster; the next look at the registry shows it.
            return
        log.info(
            "a rollout was judged",
            rollout_id=rollout.id,
            verdict=found.verdict.value,
            state=decided.state.value,
            why=found.reason,
        )

    def _decide_alone(self) -> None:
        for tenant, rollout in self._registry.running():
            observed = self._observe.of(rollout.id)
            if observed is None:
                continue
            with _apart(rollout):
                found = judge(rollout, observed.seen, now=self._clock.now())
                if found.verdict is Verdict.BACK:
                    self.take_back(tenant, rollout, by=JUDGE, reason=found.reason)
                    log.warning(
                        "a rollout is taken back by this replica alone", rollout_id=rollout.id, why=found.reason
                    )

    async def _pay(self) -> None:
        """Makes durable what was decided while the database was away."""
        for rollout_id, (tenant, rollout) in list(self._owed.items()):
            facts = {"verdict": Verdict.BACK.value, "reason": rollout.reason, "decided_by": rollout.decided_by}
            try:
                with mesh_acts("inference", tenant, action=_ACTION, target=rollout_id, details=facts):
                    standing = await self._rollouts.roll_back(
                        tenant, rollout_id, by=rollout.decided_by, reason=rollout.reason
                    )
            except (RolloutDecided, RolloutNotFound) as error:
                log.warning("a rollout was decided otherwise meanwhile", rollout_id=rollout_id, why=error.message)
            else:
                log.info("a rollout is taken back durably", rollout_id=rollout_id, state=standing.state.value)
            del self._owed[rollout_id]

    def running_or_taken_back(self, tenant: TenantId, rollout_id: str) -> Rollout | None:
        """Gives a rollout that this replica knows from memory."""
        if rollout_id in self._owed and self._owed[rollout_id][0] == tenant:
            return self._owed[rollout_id][1]
        return next((one for whose, one in self._registry.running() if whose == tenant and one.id == rollout_id), None)


@contextmanager
def _apart(rollout: Rollout) -> Generator[None]:
    """Keeps to one rollout what goes wrong with it. Raises: MeshError: the database is away."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MeshError) and error.kind not in _OF_ONE:
            raise
        log.exception("a rollout cannot be judged", rollout_id=rollout.id, cause=str(error))


class RollBack:
    """Takes a rollout back by command, also while the database is away: then here at once, durably later."""

    def __init__(self, *, rollouts: RunRollouts, judge_rollouts: JudgeRollouts) -> None:
        self._rollouts = rollouts
        self._judge = judge_rollouts

    async def __call__(self, tenant: TenantId, rollout_id: str, *, by: str) -> Rollout:
        """Raises: RolloutNotFound, RolloutDecided: it is promoted."""
        known = self._judge.running_or_taken_back(tenant, rollout_id)
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                return await self._rollouts.roll_back(tenant, rollout_id, by=by)
        except TimeoutError:
            if known is None:
                raise Unavailable("postgres") from None
        except MeshError as error:
            if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED) or known is None:
                raise
        # What is done from here on is done by a repeat as well, and no answer can be kept.
        nothing_to_repeat()
        if known.state is RolloutState.ROLLED_BACK:
            return known
        return self._judge.take_back(tenant, known, by=by, reason="by command, while the database was away")
