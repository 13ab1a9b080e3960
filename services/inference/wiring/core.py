"""Puts together how a model is asked: from a call's id to its settlement."""

from dataclasses import dataclass
from random import SystemRandom

from services.inference.domain.deployment import Deployments
from services.inference.domain.vector_cache import VectorCache
from services.inference.storage.comparison_records import SqlComparisonRecords
from services.inference.storage.kept_vectors import SqlKeptVectors
from services.inference.transport.doors.door import Asking, Calls
from services.inference.transport.inference_servicer import InferenceServicer
from services.inference.usecases.admit import SeatedCalls
from services.inference.usecases.cached_answers import CachedAnswers
from services.inference.usecases.chain import Chain
from services.inference.usecases.conclude import Conclude
from services.inference.usecases.deployment_gates import DeploymentGates
from services.inference.usecases.door_call import DoorCall, DoorHolds, Unrecorded
from services.inference.usecases.embed import Embed
from services.inference.usecases.embed_once import EmbedOnce
from services.inference.usecases.generate import Generate
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.ports import CallStore, HoldClient, HoldsAhead, KnowsHealth, MakesCalls
from services.inference.usecases.probe_health import ProbeHealth
from services.inference.usecases.shadow import ShadowedCalls, Shadows
from services.inference.usecases.stream_generate import StreamGenerate
from services.inference.wiring.ground import Ground
from services.inference.wiring.registry import Known
from services.inference.wiring.routing import cached_answers, scheduler
from services.meshkit.calls.settled_notes import SettledNotes
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


def core(on: Ground, *, deployments: Deployments, known: Known, holds: HoldClient) -> Core:
    """Puts it together."""
    settings, clock, ids = on.settings, on.clock, on.ids
    embed = _embed(on, known, holds)
    calling = Calling(on, known, cached=cached_answers(settings, deployments=deployments, embed=embed, clock=clock))
    seats = scheduler(settings, clock=clock)
    notes = SettledNotes("inference_settled_notes", on.calls, clock=clock)
    door_holds, unrecorded = DoorHolds(holds, clock=clock), Unrecorded()
    door_notes = SettledNotes("inference_door_notes", unrecorded, clock=clock)
    shadows = Shadows(known.registry, SqlComparisonRecords(on.app), clock=clock, ids=ids)
    model_call = ShadowedCalls(
        SeatedCalls(calling(holds, on.calls, notes), scheduler=seats),
        copies=SeatedCalls(calling(holds, unrecorded, door_notes), scheduler=seats),
        shadows=shadows,
    )
    at_doors = SeatedCalls(calling(door_holds, unrecorded, door_notes, holds_ahead=door_holds), scheduler=seats)
    door_call = DoorCall(ShadowedCalls(at_doors, copies=at_doors, shadows=shadows))
    embed_once = EmbedOnce(embed=embed, answers=SqlKeptVectors(on.app, keys=on.sealed.keys))
    generate = Generate(model_call=model_call, in_flight=on.in_flight)
    stream_generate = StreamGenerate(model_call=model_call, in_flight=on.in_flight)
    servicer = InferenceServicer(
        generate=generate,
        stream_generate=stream_generate,
        calls=on.calls,
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
    looks = ProbeHealth(calling.gates, known.models, stands=known.registry.stands, clock=clock)
    return Core(
        servicer=servicer,
        model_call=model_call,
        health=calling.gates,
        asking=asking,
        embed=embed_once,
        shadows=shadows,
        embed_anew=embed,
        background=(notes, door_notes, door_holds, shadows, looks),
    )


def _embed(on: Ground, known: Known, holds: HoldClient) -> Embed:
    vectors = VectorCache(most_bytes=on.settings.vector_cache_bytes)
    metrics.show_size("inference.vectors", vectors, size_bytes=lambda: vectors.bytes)
    return Embed(
        registry=known.registry,
        models=known.models,
        law=on.law,
        holds=holds,
        cache=vectors,
        tenants=on.guard.feed,
        clock=on.clock,
        most_calls=on.settings.max_embedding_calls,
    )


class Calling:
    """Makes what makes calls: recorded or not, and paid in one way or the other, by the same gates."""

    def __init__(self, on: Ground, known: Known, *, cached: CachedAnswers) -> None:
        self._on = on
        self._known = known
        self._cached = cached
        self._dice = SystemRandom()
        settings = on.settings
        self.gates = DeploymentGates(
            failures=settings.breaker_failures, dice=self._dice, probe_seconds=settings.probe_seconds
        )

    def __call__(
        self, holds: HoldClient, calls: CallStore, notes: SettledNotes, holds_ahead: HoldsAhead | None = None
    ) -> ModelCall:
        """Makes one."""
        on, known = self._on, self._known
        chain = Chain(
            registry=known.registry,
            models=known.models,
            router=known.router,
            gates=self.gates,
            law=on.law,
            holds=holds,
            prices=on.prices,
            tenants=on.guard.feed,
            clock=on.clock,
            dice=self._dice,
        )
        return ModelCall(
            router=known.router,
            cached=self._cached,
            chain=chain,
            conclude=Conclude(router=known.router, law=on.law, holds=holds, calls=calls, notes=notes),
            law=on.law,
            claims=on.claims,
            tenants=on.guard.feed,
            holds_ahead=holds_ahead,
        )
