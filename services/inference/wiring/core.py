"""Puts together how a model is asked: from a call's id to its settlement."""

from dataclasses import dataclass

from services.inference.domain.deployment import Deployments
from services.inference.domain.vector_cache import VectorCache
from services.inference.providers.http import ProviderHttp
from services.inference.settings import InferenceSettings
from services.inference.transport.inference_servicer import InferenceServicer
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.embed import Embed
from services.inference.usecases.embed_once import EmbedOnce, KeptVectors
from services.inference.usecases.generate import Generate
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.ports import CallStore, HoldClient, PriceList
from services.inference.usecases.stream_generate import StreamGenerate
from services.inference.wiring.providers import embedders
from services.inference.wiring.registry import Known
from services.meshkit.calls.ports import LawGate
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import KnowsTenants
from services.meshkit.grpc.server import Background
from services.meshkit.telemetry import metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What serves InferenceService, and what runs behind it."""

    servicer: InferenceServicer
    model_call: ModelCall
    background: tuple[Background, ...]


def core(
    settings: InferenceSettings,
    *,
    deployments: Deployments,
    known: Known,
    http: ProviderHttp,
    law: LawGate,
    holds: HoldClient,
    prices: PriceList,
    calls: CallStore,
    answers: KeptVectors,
    tenants: KnowsTenants,
    clock: Clock,
    ids: IdSource,
) -> Core:
    """Puts it together."""
    notes = SettledNotes("inference_settled_notes", calls, clock=clock)
    model_call = ModelCall(
        deployments=deployments,
        router=known.router,
        models=known.models,
        law=law,
        holds=holds,
        prices=prices,
        calls=calls,
        notes=notes,
        tenants=tenants,
        clock=clock,
    )
    in_flight = CallsInFlight(most=settings.max_model_calls)
    vectors = VectorCache(most=settings.vector_cache_entries)
    metrics.show_size("inference.vectors", vectors)
    embed = Embed(
        deployments=deployments,
        embedders=embedders(settings, http),
        law=law,
        holds=holds,
        cache=vectors,
        tenants=tenants,
        clock=clock,
        most_calls=settings.max_embedding_calls,
    )
    servicer = InferenceServicer(
        generate=Generate(model_call=model_call, in_flight=in_flight),
        stream_generate=StreamGenerate(model_call=model_call, in_flight=in_flight),
        embed=EmbedOnce(embed=embed, answers=answers),
        registry=known.registry,
        clock=clock,
        ids=ids,
    )
    return Core(servicer=servicer, model_call=model_call, background=(notes,))
