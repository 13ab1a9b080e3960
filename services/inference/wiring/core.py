"""Puts together how a model is asked: from a call's id to its settlement."""

from dataclasses import dataclass
from random import SystemRandom

from services.inference.domain.deployment import Deployments
from services.inference.domain.vector_cache import VectorCache
from services.inference.settings import InferenceSettings
from services.inference.transport.doors.door import Asking, Calls
from services.inference.transport.inference_servicer import InferenceServicer
from services.inference.usecases.admit import SeatedCalls
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.chain import Chain
from services.inference.usecases.claims import Claims
from services.inference.usecases.conclude import Conclude
from services.inference.usecases.deployment_gates import DeploymentGates
from services.inference.usecases.door_call import DoorCall, DoorHolds, Unrecorded
from services.inference.usecases.embed import Embed
from services.inference.usecases.embed_once import EmbedOnce, KeptVectors
from services.inference.usecases.generate import Generate
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.ports import CallStore, HoldClient, HoldsAhead, KnowsHealth, MakesCalls, PriceList
from services.inference.usecases.probe_health import ProbeHealth
from services.inference.usecases.shadow import ComparisonRecords, ShadowedCalls, Shadows
from services.inference.usecases.stream_generate import StreamGenerate
from services.inference.wiring.registry import Known
from services.inference.wiring.routing import cached_answers, scheduler
from services.meshkit.calls.ports import LawGate
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import KnowsTenants
from services.meshkit.grpc.server import Background
from services.meshkit.telemetry import metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What serves InferenceService, what the doors ask, and what runs behind both."""

    servicer: InferenceServicer
    model_call: MakesCalls
    health: KnowsHealth
    asking: Asking
    embed: EmbedOnce
    shadows: Shadows
    #: As often as it is asked, whatever was kept.
    embed_anew: Embed
    background: tuple[Background, ...]


def core(
    settings: InferenceSettings,
    *,
    deployments: Deployments,
    known: Known,
    law: LawGate,
    holds: HoldClient,
    prices: PriceList,
    calls: CallStore,
    claims: Claims,
    in_flight: CallsInFlight,
    answers: KeptVectors,
    comparisons: ComparisonRecords,
    tenants: KnowsTenants,
    clock: Clock,
    ids: IdSource,
) -> Core:
    """Puts it together."""
    dice, router = SystemRandom(), known.router
    gates = DeploymentGates(failures=settings.breaker_failures, dice=dice, probe_seconds=settings.probe_seconds)
    vectors = VectorCache(most=settings.vector_cache_entries)
    metrics.show_size("inference.vectors", vectors)
    embed = Embed(
        registry=known.registry,
        models=known.models,
        law=law,
        holds=holds,
        cache=vectors,
        tenants=tenants,
        clock=clock,
        most_calls=settings.max_embedding_calls,
    )
    cached = cached_answers(settings, deployments=deployments, embed=embed, clock=clock)
    seats = scheduler(settings, clock=clock)

    def calling(
        holds: HoldClient,
        calls: CallStore,
        claims: Claims,
        notes: SettledNotes,
        holds_ahead: HoldsAhead | None = None,
    ) -> ModelCall:
        chain = Chain(
            registry=known.registry,
            models=known.models,
            router=router,
            gates=gates,
            law=law,
            holds=holds,
            prices=prices,
            tenants=tenants,
            clock=clock,
            dice=dice,
        )
        conclude = Conclude(router=router, law=law, holds=holds, calls=calls, notes=notes)
        return ModelCall(
            router=router,
            cached=cached,
            chain=chain,
            conclude=conclude,
            law=law,
            claims=claims,
            tenants=tenants,
            holds_ahead=holds_ahead,
        )

    notes = SettledNotes("inference_settled_notes", calls, clock=clock)
    door_holds, unrecorded = DoorHolds(holds, clock=clock), Unrecorded()
    door_notes = SettledNotes("inference_door_notes", unrecorded, clock=clock)
    shadows = Shadows(known.registry, comparisons, clock=clock, ids=ids)
    model_call = ShadowedCalls(
        SeatedCalls(calling(holds, calls, claims, notes), scheduler=seats),
        copies=SeatedCalls(calling(holds, unrecorded, claims, door_notes), scheduler=seats),
        shadows=shadows,
    )
    at_doors = SeatedCalls(calling(door_holds, unrecorded, claims, door_notes, holds_ahead=door_holds), scheduler=seats)
    door_call = DoorCall(ShadowedCalls(at_doors, copies=at_doors, shadows=shadows))
    embed_once = EmbedOnce(embed=embed, answers=answers)
    generate = Generate(model_call=model_call, in_flight=in_flight)
    stream_generate = StreamGenerate(model_call=model_call, in_flight=in_flight)
    servicer = InferenceServicer(
        generate=generate,
        stream_generate=stream_generate,
        calls=calls,
        embed=embed_once,
        registry=known.registry,
        clock=clock,
        ids=ids,
    )
    asking = Asking(
        keyed=Calls(answer=generate, stream=stream_generate),
        unkeyed=Calls(answer=door_call.answer, stream=door_call.stream),
        check_seats=seats.check,
        registry=known.registry,
        clock=clock,
        ids=ids,
    )
    return Core(
        servicer=servicer,
        model_call=model_call,
        health=gates,
        asking=asking,
        embed=embed_once,
        shadows=shadows,
        embed_anew=embed,
        background=(
            notes,
            door_notes,
            door_holds,
            shadows,
            ProbeHealth(gates, known.models, stands=known.registry.stands, clock=clock),
        ),
    )
