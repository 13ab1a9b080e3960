"""Puts together the doors of memory: remember, recall, read, forget."""

from functools import partial
from typing import Final

from comitia.memory.v1.memory_service_pb2_grpc import add_MemoryServiceServicer_to_server
from comitia.policy.v1 import policy_pb2
from services.memory.transport.memory_servicer import MemoryServicer
from services.memory.usecases.forget_memory import ForgetMemory
from services.memory.usecases.project_access import ProjectAccess
from services.memory.usecases.query_vectors import QueryVectors
from services.memory.usecases.recall import Recall
from services.memory.usecases.remember import Remember
from services.memory.wiring.embedding import Embedding
from services.memory.wiring.ground import Ground
from services.memory.wiring.keeping import Keeping
from services.meshkit.calls.law_gate import PolicyLawGate
from services.meshkit.grpc.server import Registration
from services.meshkit.guard import access_gate

#: Longest wait for a verdict: less than Remember may take, so that its caller learns what was down.
_LAW_SECONDS: Final = 8.0


def doors(on: Ground, kept: Keeping, embedded: Embedding) -> Registration:
    """Gives what serves them."""
    clock, ids = on.clock, on.ids
    gate = access_gate.GatewayAccessGate(on.gateway, clock=clock)
    gate.show("memory")
    law = PolicyLawGate(on.law, operation=policy_pb2.OPERATION_REMEMBER, timeout_seconds=_LAW_SECONDS)
    servicer = MemoryServicer(
        remember=Remember(law=law, memories=kept.writer, wake=embedded.embed.wake, clock=clock, ids=ids),
        recall=_recall(on, kept, embedded),
        forget_memory=ForgetMemory(
            memories=kept.writer,
            placements=kept.placement_work,
            vectors=on.vectors,
            sweep=embedded.place.sweep_soon,
            clock=clock,
        ),
        memories=kept.reader,
        access=ProjectAccess(gate),
        ids=ids,
    )
    return partial(add_MemoryServiceServicer_to_server, servicer)


def _recall(on: Ground, kept: Keeping, embedded: Embedding) -> Recall:
    settings, clock = on.settings, on.clock
    return Recall(
        memories=kept.reader,
        placements=kept.embed_work,
        queries=QueryVectors(
            embedded.embedder,
            clock=clock,
            per_tenant=settings.query_vectors_per_tenant,
            tenants=settings.query_vector_tenants,
        ),
        vectors=on.vectors,
        look=embedded.embed.look,
        check=embedded.place.check_soon,
        clock=clock,
        similarity_seconds=settings.similarity_seconds,
    )
