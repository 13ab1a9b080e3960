"""The core that InvokeTool and StreamInvokeTool share: from a call id to a recorded outcome.

recorded already? ─▶ choose the version ─▶ tenant's rules ─▶ agent ─▶ schema ─▶ rate ─▶ law before
                  ─▶ cache, or a paid run ─▶ answer

The cache is asked after the law, with the arguments that the law leaves, and what it gives is judged as if it had come
just now: a law that changed holds for old results, too.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.core.secret import NO_SECRET
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import genai, metrics, names
from services.meshkit.telemetry.tracing import Attributes, span
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.errors import LawBlocked, ToolRateLimited
from services.tools.domain.invocation import Blocked, Invocation, RecordedCall, SettleState, ToolOutput
from services.tools.domain.result_cache import ResultCache
from services.tools.domain.tool import Tool
from services.tools.usecases.asked import Asked
from services.tools.usecases.calls_in_flight import Release
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.judgement import Judgement, Run
from services.tools.usecases.paid_run import PaidRun
from services.tools.usecases.ports import CallStore, RateLimits


@dataclass(slots=True)
class _Counted:
    status: str = "ok"


class ToolCall:
    """Makes one call of a tool."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        judgement: Judgement,
        paid_run: PaidRun,
        schemas: CompiledSchemas,
        calls: CallStore,
        limits: RateLimits,
        cache: ResultCache,
        tenants: KnowsTenants,
    ) -> None:
        self._catalogue = catalogue
        self._judgement = judgement
        self._paid_run = paid_run
        self._schemas = schemas
        self._calls = calls
        self._limits = limits
        self._cache = cache
        self._tenants = tenants
        self._tool_label = metrics.BoundedLabel()

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Invocation:
        """Gives the outcome; a repeat of a recorded call gets the recorded one.

        Raises: CallArgumentsDiffer, ToolNotFound, ToolNotAllowed, ToolArgumentsWrong, ToolRateLimited, LawBlocked,
            DeadlineExceeded, and what law and money raise.
        """
        with span(names.SPAN_TOOL, attributes=partial(_asked_for, asked)):
            if asked.repeatable:
                recorded = await self._calls.find(asked.key, asked.arguments_hash)
                if recorded is not None:
                    return await self._replay(asked.principal, recorded)
            tool = await self._catalogue.find(asked.principal.tenant, asked.reference)
            with self._counting(tool) as counted:
                invocation = await self._call(asked, tool, release if streamed else None)
                counted.status = "failed" if invocation.failed else "cached" if invocation.cached else "ok"
                return invocation

    async def _call(self, asked: Asked, tool: Tool, release: Release | None) -> Invocation:
        tenant = asked.principal.tenant
        self._catalogue.rule(tenant).check(tool)
        hosts = rules_of(self._tenants, tenant).security_policy.allowed_hosts
        tool.allow(asked.context.agent_name)
        tool.check_arguments(asked.arguments, self._schemas.of_arguments(tool))
        wait = await self._limits.take(tenant, tool.reference, per_minute=tool.rate_limit_per_minute)
        if wait:
            raise ToolRateLimited(tool.reference, per_minute=tool.rate_limit_per_minute, wait_seconds=wait)
        run = await self._judgement.arguments(asked, tool)
        known = self._cache.get(tenant, tool, run.arguments, hosts=hosts)
        if known is not None:
            return _outcome(await finish(self._from_cache(run, known)))
        recorded, output = await self._paid_run(run, release, hosts=hosts)
        if output is not None:
            self._cache.put(tenant, tool, run.arguments, output, hosts=hosts)
        return _outcome(recorded)

    async def _from_cache(self, run: Run, output: ToolOutput) -> RecordedCall:
        """Judges and records a result from cache. It costs nothing, and no socket opens."""
        recorded = RecordedCall(
            key=run.asked.key,
            arguments_hash=run.asked.arguments_hash,
            tool=run.tool.reference,
            outcome=await self._judgement.result(run, output, hold_id="", elapsed_us=0),
            hold_id="",
            settle_state=SettleState.FREE,
        )
        return await self._calls.record(recorded, token=NO_SECRET)

    async def _replay(self, principal: Principal, call: RecordedCall) -> Invocation:
        """Gives a recorded outcome again, and settles it first if that was left undone."""
        if call.settle_state is SettleState.PENDING:
            await finish(self._paid_run.settle(principal, call))
        return _outcome(call)

    @contextmanager
    def _counting(self, tool: Tool) -> Generator[_Counted]:
        counted = _Counted()
        try:
            yield counted
        except LawBlocked:
            counted.status = "blocked"
            raise
        except MeshError as error:
            refused = (ErrorKind.INVALID, ErrorKind.DENIED, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT)
            counted.status = "refused" if error.kind in refused else "error"
            raise
        except BaseException:
            counted.status = "error"
            raise
        finally:
            metrics.TOOL_INVOCATIONS.labels(self._tool_label(tool.name), counted.status).inc()


def _asked_for(asked: Asked) -> Attributes:
    return {
        genai.OPERATION: genai.EXECUTE_TOOL,
        genai.TOOL_NAME: str(asked.reference),
        genai.CONVERSATION_ID: asked.context.call_id.run_id,
    }


def _outcome(call: RecordedCall) -> Invocation:
    """Gives the finished call. Raises: LawBlocked: its outcome is that the law keeps the result back."""
    if isinstance(call.outcome, Blocked):
        raise call.outcome.error()
    return call.outcome
