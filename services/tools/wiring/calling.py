"""Puts together what calls tools: law, money, executors, records of calls, and what settles what was left open."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from comitia.policy.v1 import policy_pb2
from services.meshkit.calls.law_gate import PolicyLawGate
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.calls.sweep import Sweep
from services.meshkit.grpc.server import Background
from services.meshkit.telemetry import metrics
from services.tools.builtins.calculator import Calculator
from services.tools.builtins.executors import Executors
from services.tools.builtins.http_get import HttpGet, HttpGetTemplate
from services.tools.clients.hold_client import CostHoldClient
from services.tools.clients.shared_rates import SharedRates
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.result_cache import ResultCache
from services.tools.storage.invocation_repository import InvocationRepository
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.judgement import Judgement
from services.tools.usecases.paid_run import PaidRun
from services.tools.usecases.tool_call import ToolCall
from services.tools.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """What makes calls, and what ends those that were left."""

    tool_call: ToolCall
    background: Sequence[Background]


def calling(on: Ground, catalogue: Catalogue) -> Calling:
    """Builds it."""
    settings, clock = on.settings, on.clock
    calls = InvocationRepository(on.app, on.maintenance, keys=on.sealed.keys)
    notes = SettledNotes("tools_settled_notes", calls, clock=clock)
    holds = CostHoldClient(on.money, ids=on.ids)
    schemas = CompiledSchemas()
    metrics.show_size("tools.schemas", schemas)
    judgement = Judgement(law=PolicyLawGate(on.law, operation=policy_pb2.OPERATION_INVOKE_TOOL), schemas=schemas)
    paid_run = PaidRun(
        executor_of=_executors(on).of,
        judgement=judgement,
        schemas=schemas,
        holds=holds,
        calls=calls,
        notes=notes,
        clock=clock,
    )
    tool_call = ToolCall(
        catalogue=catalogue,
        judgement=judgement,
        paid_run=paid_run,
        schemas=schemas,
        calls=calls,
        limits=SharedRates(on.guard.rates),
        cache=_results(on),
        tenants=on.guard.feed,
    )
    sweep = Sweep(
        calls=calls,
        holds=holds,
        clock=clock,
        every_seconds=settings.sweep_seconds,
        retention=timedelta(hours=settings.call_retention_hours),
    )
    return Calling(tool_call=tool_call, background=(notes, sweep))


def _executors(on: Ground) -> Executors:
    return Executors(calculator=Calculator(), http_get=HttpGet(on.pages), template=HttpGetTemplate(on.pages))


def _results(on: Ground) -> ResultCache:
    results = ResultCache(now=on.clock.monotonic, most_bytes=on.settings.cache_bytes)
    metrics.show_size("tools.results", results, size_bytes=lambda: results.size_bytes)
    return results
