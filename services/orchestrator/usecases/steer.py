"""Steers runs and sessions: judges the state, and leaves a durable command for the run's owner."""

from collections.abc import Awaitable, Callable
from typing import Generic

from services.meshkit.core.identity import Caller, TenantId
from services.orchestrator.usecases.ports import GivenCommands, Runs
from services.orchestrator.usecases.run_access import RunAccess, Viewed

#: Gives a run, or a session, as it stands.
Look = Callable[[TenantId, str], Awaitable[Viewed]]


class Steering(Generic[Viewed]):
    """What every command to a run goes through."""

    def __init__(self, *, runs: Runs, given: GivenCommands, look: Look[Viewed], access: RunAccess) -> None:
        self._runs = runs
        self._given = given
        self._look = look
        self._access = access

    async def __call__(
        self,
        caller: Caller,
        run_id: str,
        kind: str,
        judge: Callable[[Viewed], Awaitable[bool]],
        *,
        payload: bytes = b"",
    ) -> Viewed:
        """Gives a command and waits until it was taken, a moment at most.

        Args:
            judge: says whether the command would change anything; raises where the run's state does not allow it.
        Returns: the run as it stands then.
        Raises: RunNotFound or SessionNotFound, RelationMissing, what `judge` does; AnsweredBefore and its kin for a
            repeat.
        """
        tenant = caller.principal.tenant
        seen = await self._look(tenant, run_id)
        await self._access.to_control(caller, seen)
        # Asked before the state is judged: the command of the first request may have changed it.
        if not await self._given.taken_before(tenant):
            if not await judge(seen):
                return seen
            await self._runs.command(caller.principal, run_id, kind, payload)
        answer = await self._look(tenant, run_id)
        await self._given.keep_answer(tenant, answer)
        return answer
