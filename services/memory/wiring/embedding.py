"""Puts together what makes memories be found: embedding them, and placing their vectors in the store of vectors."""

from dataclasses import dataclass

from services.memory.clients.embedder import InferenceEmbedder
from services.memory.usecases.embed_memories import EmbedMemories
from services.memory.usecases.place_vectors import PlaceVectors
from services.memory.wiring.ground import Ground
from services.memory.wiring.keeping import Keeping


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What embeds. `embed` and `place` are background work, too."""

    embedder: InferenceEmbedder
    embed: EmbedMemories
    place: PlaceVectors


def embedding(on: Ground, kept: Keeping) -> Embedding:
    """Builds it."""
    settings, clock = on.settings, on.clock
    embedder = InferenceEmbedder(on.inference, model=settings.embedding_model)
    place = PlaceVectors(
        work=kept.placement_work,
        vectors=on.vectors,
        clock=clock,
        sweep_seconds=settings.sweep_seconds,
        check_seconds=settings.check_seconds,
    )
    embed = EmbedMemories(
        work=kept.embed_work,
        embedder=embedder,
        vectors=on.vectors,
        place=place.sweep_soon,
        clock=clock,
        max_tenants=settings.embed_queue_tenants,
        look_seconds=settings.embed_look_seconds,
        gather_seconds=settings.embed_gather_seconds,
    )
    return Embedding(embedder=embedder, embed=embed, place=place)
