"""Puts together how a model is asked: from a call's id to its settlement."""

from dataclasses import dataclass
from random import SystemRandom

from services.inference.domain.vector_cache import VectorCache
from services.inference.settings import InferenceSettings
from services.inference.transport.doors.door import Asking, Calls
from services.inference.transport.inference_servicer import InferenceServicer
from services.inference.usecases.admit import SeatedCalls
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.chain import Chain
from services.inference.usecases.conclude import Conclude
from services.inference.usecases.deployment_gates import DeploymentGates
from services.inference.usecases.door_call import DoorCall, DoorHolds, PaidAhead, Unrecorded
from services.inference.usecases.embed import Embed
from services.inference.usecases.embed_once import EmbedOnce, KeptVectors
from services.inference.usecases.generate import Generate
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.ports import CallStore, HoldClient, KnowsHealth, MakesCalls, PriceList
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
    #: As often as it is asked, whatever was kept.
    embed_anew: Embed
    background: tuple[Background, ...]


def core(
    settings: InferenceSettings,
    *,
    known: Known,
    law: LawGate,
    holds: HoldClient,
    prices: PriceList,
    calls: CallStore,
    in_flight: CallsInFlight,
    answers: KeptVectors,
    tenants: KnowsTenants,
    clock: Clock,
    ids: IdSource,
) -> Core:
    """Puts it together."""
    dice, router = SystemRandom(), known.router
    gates = DeploymentGates(failures=settings.breaker_failures, dice=dice)
    cached, seats = cached_answers(settings, clock=clock), scheduler(settings, clock=clock)

    def calling(holds: HoldClient, calls: CallStore, notes: SettledNotes) -> ModelCall:
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
            router=router, cached=cached, chain=chain, conclude=conclude, law=law, calls=calls, tenants=tenants
        )

    notes = SettledNotes("inference_settled_notes", calls, clock=clock)
    model_call = SeatedCalls(calling(holds, calls, notes), scheduler=seats)
    door_holds, unrecorded = DoorHolds(holds, clock=clock), Unrecorded()
    door_notes = SettledNotes("inference_door_notes", unrecorded, clock=clock)
    paid_ahead = PaidAhead(
        calling(door_holds, unrecorded, door_notes),
        holds=door_holds,
        router=router,
        tenants=tenants,
        clock=clock,
    )
    door_call = DoorCall(SeatedCalls(paid_ahead, scheduler=seats))
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
    embed_once = EmbedOnce(embed=embed, answers=answers)
    generate = Generate(model_call=model_call, in_flight=in_flight)
    stream_generate = StreamGenerate(model_call=model_call, in_flight=in_flight)
    servicer = InferenceServicer(
        generate=generate,
        stream_generate=stream_generate,
        embed=embed_once,
        registry=known.registry,
        clock=clock,
        ids=ids,
    )
    asking = Asking(
        keyed=Calls(answer=generate, stream=stream_generate),
        unkeyed=Calls(answer=door_call.answer, stream=door_call.stream),
        clock=clock,
        ids=ids,
    )
    return Core(
        servicer=servicer,
        model_call=model_call,
        health=gates,
        asking=asking,
        embed=embed_once,
        embed_anew=embed,
        background=(notes, door_notes, door_holds),
    )
