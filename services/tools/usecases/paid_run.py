"""One run of a tool under a hold, from the reservation to the settlement.

hold, as leaving now ─▶ record `dispatched` ─▶ run ─▶ law after ─▶ record the outcome ─▶ settle ─▶ note it

However it ends, the hold is charged or freed: until the call is recorded as dispatched nothing was sent, from then on
the price is owed. A crash after the hold charges it as `assumed`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from services.meshkit.calls.ports import Clearance, DispatchedHold, Settlement
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import DeadlineExceeded, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry.logs import logger
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.invocation import Blocked, RecordedCall, SettleState, ToolOutput
from services.tools.domain.tool import Tool
from services.tools.usecases.calls_in_flight import Release
from services.tools.usecases.judgement import Judgement, Run, StoppedByLaw
from services.tools.usecases.ports import CallStore, HoldClient, Show, ToolExecutor

log = logger(__name__)

AFTER_RESERVE: Final = "tools.after_reserve"
AFTER_BEGIN: Final = "tools.after_begin"
AFTER_EXECUTE: Final = "tools.after_execute"
BEFORE_SETTLE: Final = "tools.before_settle"
register(AFTER_RESERVE, AFTER_BEGIN, AFTER_EXECUTE, BEFORE_SETTLE)

#: A hold outlives the time limit of its tool by this long: time to judge, record and settle.
_HOLD_MARGIN_SECONDS: Final = 60.0

ExecutorOf = Callable[[Tool], ToolExecutor]


class PaidRun:
    """Runs a tool once, with money for it."""

    def __init__(
        self,
        *,
        executor_of: ExecutorOf,
        judgement: Judgement,
        schemas: CompiledSchemas,
        holds: HoldClient,
        calls: CallStore,
        notes: SettledNotes,
        clock: Clock,
    ) -> None:
        self._executor_of = executor_of
        self._judgement = judgement
        self._schemas = schemas
        self._holds = holds
        self._calls = calls
        self._notes = notes
        self._clock = clock

    async def __call__(
        self, run: Run, release: Release | None, *, hosts: tuple[str, ...] = ()
    ) -> tuple[RecordedCall, ToolOutput | None]:
        """Gives the recorded call and, when the tool ran to its end here, what it said.

        Args:
            hosts: that the tenant's own rules allow; none for any.
        Raises: DeadlineExceeded; what law, money and the store raise.
        """
        self._seconds_left(run)
        hold = await self._dispatch(run)
        if isinstance(hold, RecordedCall):
            return hold, None
        try:
            started = time.perf_counter_ns()
            output = await self._execute(run, hold, release, hosts)
            elapsed_us = (time.perf_counter_ns() - started) // 1000
            await failpoint(AFTER_EXECUTE)
        except BaseException:
            await finish(self._charge(run.principal, hold.id))
            raise
        recorded = await finish(self._conclude(run, hold, output, elapsed_us))
        return recorded, None if isinstance(output, Blocked) else output

    async def _dispatch(self, run: Run) -> DispatchedHold | RecordedCall:
        """Holds money and records that the call leaves; or gives the outcome that it has meanwhile."""
        principal, tool = run.principal, run.tool
        needs = timedelta(seconds=tool.timeout_seconds)
        ttl = needs + timedelta(seconds=_HOLD_MARGIN_SECONDS)
        hold = await self._holds.hold(principal, run.context, tool=tool.name, cost=tool.cost, ttl=ttl, needs=needs)
        try:
            await failpoint(AFTER_RESERVE)
            standing = await self._calls.begin(
                run.asked.key, run.asked.arguments_hash, tool=tool.reference, hold_id=hold.id
            )
            if standing is None:
                await failpoint(AFTER_BEGIN)
                return hold
        except BaseException:
            await finish(self._free(principal, hold.id))
            raise
        await finish(self._free(principal, hold.id))
        return standing

    async def _execute(
        self, run: Run, hold: DispatchedHold, release: Release | None, hosts: tuple[str, ...]
    ) -> ToolOutput | Blocked:
        tool, left = run.tool, self._seconds_left(run)
        clearance = Clearance(hold=hold, verdict_id=run.before.id, allowed_hosts=hosts)
        show: Show | None = None if release is None else self._judgement.showing(run, release)
        try:
            async with asyncio.timeout(min(left, tool.timeout_seconds)):
                output = await self._executor_of(tool).run(tool, run.arguments, clearance, show=show)
        except TimeoutError as cause:
            if left < tool.timeout_seconds:
                raise DeadlineExceeded("the time of this call is used up") from cause
            return ToolOutput(text=f"{tool.name} did not answer within {tool.timeout_seconds} s", failed=True)
        except StoppedByLaw as stop:
            return stop.outcome
        return self._checked(tool, output)

    def _checked(self, tool: Tool, output: ToolOutput) -> ToolOutput:
        """Fails a result that is not what the tool promises."""
        schema = self._schemas.of_result(tool)
        if schema is None or output.failed:
            return output
        try:
            value: object = json.loads(output.text)
        except (ValueError, RecursionError):
            value = output.text
        problem = schema.problem(value)
        if problem is None:
            return output
        path, sentence = problem
        return ToolOutput(text=f"the result is not what {tool.name} promises: result{path}: {sentence}", failed=True)

    async def _conclude(
        self, run: Run, hold: DispatchedHold, output: ToolOutput | Blocked, elapsed_us: int
    ) -> RecordedCall:
        """Judges, records and settles. Never interrupted: the call has taken place."""
        try:
            recorded, standing = await self._record(run, hold, output, elapsed_us)
            await failpoint(BEFORE_SETTLE)
        except BaseException:
            # Without a record the result goes nowhere; its price is still owed.
            await self._charge(run.principal, hold.id)
            raise
        if recorded.settle_state is SettleState.FREE:
            await self._free(run.principal, hold.id)
        else:
            await self.settle(run.principal, recorded)
        return standing

    async def _record(
        self, run: Run, hold: DispatchedHold, output: ToolOutput | Blocked, elapsed_us: int
    ) -> tuple[RecordedCall, RecordedCall]:
        owed = isinstance(output, Blocked) or output.sent
        if isinstance(output, Blocked):
            outcome = output
        else:
            outcome = await self._judgement.result(run, output, hold_id=hold.id, elapsed_us=elapsed_us)
        recorded = RecordedCall(
            key=run.asked.key,
            arguments_hash=run.asked.arguments_hash,
            tool=run.tool.reference,
            outcome=outcome,
            hold_id=hold.id,
            settle_state=SettleState.PENDING if owed else SettleState.FREE,
        )
        return recorded, await self._calls.record(recorded, token=run.principal.token)

    async def settle(self, principal: Principal, call: RecordedCall) -> None:
        """Charges a recorded call. When cost does not answer, the sweeper or a repeat does it later."""
        try:
            charged = await self._holds.settle(principal, call.hold_id, None)
        except MeshError as error:
            log.warning("settlement is left to the sweeper", hold_id=call.hold_id, error=error.message)
            return
        self._notes.add(Settlement(key=call.key, hold_id=call.hold_id, charged=charged))

    async def _charge(self, principal: Principal, hold_id: str) -> None:
        """Charges a call that left and has no record. While cost is down, the hold expires into `assumed`."""
        try:
            await self._holds.settle(principal, hold_id, None)
        except MeshError as error:
            log.warning("a call's hold is left to expire", hold_id=hold_id, error=error.message)

    async def _free(self, principal: Principal, hold_id: str) -> None:
        """Frees the hold of a call that was to leave, and did not."""
        try:
            await self._holds.release(principal, hold_id, dispatched_unbilled=True)
        except MeshError as error:
            log.warning("an unused hold is left to expire", hold_id=hold_id, error=error.message)

    def _seconds_left(self, run: Run) -> float:
        left = run.asked.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time of this call is used up")
        return left
