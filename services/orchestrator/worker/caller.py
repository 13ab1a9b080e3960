"""Makes the call of a CallIntended fact: adds its context, asks the neighbour, tries again what may pass."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain, repeat
from random import Random
from typing import Final, Protocol

from google.protobuf.message import Message
from opentelemetry.trace import SpanKind

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.retry import Backoff
from services.meshkit.guard.errors import TokenRevoked
from services.meshkit.telemetry import names
from services.meshkit.telemetry.scope import scoped
from services.meshkit.telemetry.tracing import Attributes, span
from services.orchestrator.engine.outcomes import held_by_others, may_pass
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.engine.step_times import turn_trace
from services.orchestrator.programs.commands import MODEL_CALLS
from services.orchestrator.worker.patience import PARK_AFTER, patience_with, waited_out

_MAX_WAIT_SECONDS: Final = 5.0
_CALL_KIND: Final = len("CALL_KIND_")


class Neighbours(Protocol):
    """The services that a turn asks, each call on behalf of a principal and within a time."""

    async def recall(
        self, principal: Principal, request: memory_service_pb2.RecallRequest, *, seconds: float
    ) -> memory_service_pb2.RecallResponse:
        """Asks memory."""
        ...

    async def remember(
        self, principal: Principal, request: memory_service_pb2.RememberRequest, *, seconds: float
    ) -> memory_service_pb2.RememberResponse:
        """Writes to memory. Idempotent per call id."""
        ...

    async def generate(
        self,
        principal: Principal,
        request: inference_service_pb2.StreamGenerateRequest,
        *,
        seconds: float,
        on_text: Callable[[str, bool], Awaitable[None]],
    ) -> Message:
        """Asks a model; `on_text` gets each piece of text, and whether what came before is void."""
        ...

    async def embed(
        self, principal: Principal, request: inference_service_pb2.EmbedRequest, *, seconds: float
    ) -> inference_service_pb2.EmbedResponse:
        """Embeds texts."""
        ...

    async def describe_tools(
        self, principal: Principal, request: tool_service_pb2.ListToolsRequest, *, seconds: float
    ) -> tool_service_pb2.ListToolsResponse:
        """Fetches tool definitions."""
        ...

    async def invoke_tool(
        self, principal: Principal, request: tool_service_pb2.InvokeToolRequest, *, seconds: float
    ) -> tool_service_pb2.Invocation:
        """Calls a tool."""
        ...


class SubRunStarts(Protocol):
    """Looks up what sub-runs are made of."""

    async def prepare(
        self, principal: Principal, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry
    ) -> journal_pb2.RunStarted:
        """Gives the first fact of the sub-run that a call of a run asks for. Raises: MeshError."""
        ...


class RunTokens(Protocol):
    """Acts for a run when its starter is long gone."""

    async def principal(self, run: OwnedRun) -> Principal:
        """Gives whom the run acts for, with a token that is fresh. Raises: MeshError: revoked, or no answer."""
        ...

    def forget(self, run: OwnedRun) -> None:
        """Has the next token of a run fetched anew."""
        ...


class StorageRoom(Protocol):
    """Knows how much the runs of tenants take."""

    async def check(self, tenant: TenantId) -> None:
        """Says whether runs in progress may take more. Raises: StorageFull."""
        ...


class Caller:
    """Makes outward calls of runs."""

    def __init__(
        self,
        *,
        neighbours: Neighbours,
        sub_runs: SubRunStarts,
        tokens: RunTokens,
        storage: StorageRoom,
        clock: Clock,
        random: Random,
    ) -> None:
        self._neighbours = neighbours
        self._sub_runs = sub_runs
        self._tokens = tokens
        self._storage = storage
        self._clock = clock
        self._random = random
        self._backoff = Backoff(first_seconds=0.1, most_seconds=_MAX_WAIT_SECONDS)

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        kind = intended.call_intended.kind
        patience = patience_with(kind)
        waits = chain(self._backoff.waits(self._random), repeat(_MAX_WAIT_SECONDS))
        tries = waited = 0
        renewed = False
        traceparent = turn_trace(run.run_id, intended) if outcome.speaker else ""
        told = partial(_told, intended)
        while True:
            tries += 1
            try:
                with (
                    scoped(correlation_id=run.run_id),
                    span(names.SPAN_CALL, traceparent=traceparent, kind=SpanKind.CLIENT, attributes=told),
                ):
                    await self._storage.check(run.tenant)
                    principal = await self._tokens.principal(run)
                    if kind == journal_pb2.CALL_KIND_RUN:
                        return await self._sub_runs.prepare(principal, started, intended)
                    context = _context(run, started, intended, speaker=outcome.speaker)
                    # A plan, or what was read for one, is no answer: only the answer is shown as it is written.
                    shown = kind == journal_pb2.CALL_KIND_GENERATE
                    if shown and (tries > 1 or outcome.again):
                        await outcome.delta(intended.path, "", restart=True)
                    with outcome.asking():
                        return await self._ask(principal, context, intended, outcome if shown else None)
            except MeshError as error:
                if error.reason == TokenRevoked.reason and not renewed:
                    # Roles or the secret changed of whoever stands behind the run, or they ended: the gateway knows.
                    renewed = True
                    self._tokens.forget(run)
                    continue
                waits_for_it = waited_out(error)
                waited += waits_for_it
                used_up = patience.tries is not None and tries - waited >= patience.tries
                if not waits_for_it and (not may_pass(error) or used_up):
                    raise
                # Whoever waits for money has waited for minutes by now.
                shown = tries >= PARK_AFTER or held_by_others(error)
                if waits_for_it or (shown and patience.tries is None):
                    outcome.parked(intended.path, error.reason, error.message)
                wait = next(waits)
                if error.retry_after is not None:
                    wait = max(wait, min(error.retry_after.total_seconds(), _MAX_WAIT_SECONDS))
                await self._clock.sleep(wait)

    async def _ask(
        self,
        principal: Principal,
        context: content_pb2.CallContext,
        intended: journal_pb2.JournalEntry,
        shown_to: Outcome | None,
    ) -> Message:
        neighbours, call = self._neighbours, intended.call_intended
        seconds = patience_with(call.kind).seconds
        match call.kind:
            case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
                names_ = tool_service_pb2.ListToolsRequest.FromString(call.request)
                return await neighbours.describe_tools(principal, names_, seconds=seconds)
            case journal_pb2.CALL_KIND_RECALL:
                recall = memory_service_pb2.RecallRequest.FromString(call.request)
                recall.context.CopyFrom(context)
                return await neighbours.recall(principal, recall, seconds=seconds)
            case journal_pb2.CALL_KIND_REMEMBER:
                remember = memory_service_pb2.RememberRequest.FromString(call.request)
                remember.context.CopyFrom(context)
                return await neighbours.remember(principal, remember, seconds=seconds)
            case journal_pb2.CALL_KIND_EMBED:
                embed = inference_service_pb2.EmbedRequest.FromString(call.request)
                embed.context.CopyFrom(context)
                return await neighbours.embed(principal, embed, seconds=seconds)
            case journal_pb2.CALL_KIND_TOOL:
                invoke = tool_service_pb2.InvokeToolRequest.FromString(call.request)
                invoke.context.CopyFrom(context)
                return await neighbours.invoke_tool(principal, invoke, seconds=seconds)
            case _:
                generate = inference_service_pb2.StreamGenerateRequest.FromString(call.request)
                generate.context.CopyFrom(context)

                async def show(text: str, restart: bool) -> None:
                    if shown_to is not None:
                        await shown_to.delta(intended.path, text, restart=restart)

                return await neighbours.generate(principal, generate, seconds=seconds, on_text=show)


def _told(intended: journal_pb2.JournalEntry) -> Attributes:
    kind = journal_pb2.CallKind.Name(intended.call_intended.kind)[_CALL_KIND:]
    return {names.ATTRIBUTE_PATH: intended.path, names.ATTRIBUTE_CALL: kind}


def _context(
    run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, *, speaker: str
) -> content_pb2.CallContext:
    """Says who calls from where, and what the call spends from."""
    call, begun = intended.call_intended, started.run if started.HasField("run") else started.session
    name, _, version = speaker.partition("@")
    # Of a fork under another policy. Memory and all else are held to the law alone.
    judged = started.fork if call.kind in MODEL_CALLS else journal_pb2.Fork()
    return content_pb2.CallContext(
        call_id=content_pb2.CallId(
            run_id=run.run_id, path=intended.path, attempt_group=call.attempt_group, call_index=call.call_index
        ),
        budget_ids=[begun.budget_id],
        project=begun.metadata.get("project", ""),
        residency_region=started.session.residency_region,
        agent_name=name,
        agent_version=version,
        bundle=judged.bundle,
        bundle_digest=judged.bundle_digest,
        parent_steps=started.parent_steps,
    )
