"""proto <-> domain, both ways; pure but for the id that a direct call gets."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.memory.v1 import memory_service_pb2 as pb
from services.memory.domain.memory import (
    Memory,
    MemoryId,
    Placement,
    Remembrance,
    checked_agent,
    checked_parts,
    checked_ring_ttl,
    checked_tags,
    name_of,
)
from services.memory.domain.recall import Recalled, RecallQuery
from services.meshkit.content import CallContext, Integrity, Part
from services.meshkit.content.proto import context_from_proto, context_to_proto, parts_from_proto, parts_to_proto
from services.meshkit.content.received_context import received_context
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource, from_uuid, to_uuid

# --- requests --------------------------------------------------------------------------------------------------------


def to_remembrance(request: pb.RememberRequest, caller: Caller, ids: IdSource) -> Remembrance:
    """Reads what to remember. Raises: Invalid, naming the field."""
    parts = parts_from_proto(request.parts)
    context, _ = received_context(request.context, caller, ids, request_id=request.request_id, method="Remember")
    return Remembrance(
        tenant=caller.principal.tenant,
        from_mesh=caller.peer is not None,
        context=context,
        session=session_of(request.session_id),
        agent=checked_agent(request.agent_name),
        parts=checked_parts(parts if caller.peer is not None else tuple(_raised(part) for part in parts)),
        tags=checked_tags(request.tags),
        ring_ttl=checked_ring_ttl(request.ring_ttl_seconds),
        digest=_digest(request, context.project),
    )


def to_recall(request: pb.RecallRequest, caller: Caller, ids: IdSource) -> RecallQuery:
    """Reads what to recall. Raises: Invalid, naming the field."""
    return RecallQuery(
        context=received_context(request.context, caller, ids)[0],
        query=request.query,
        session=session_of(request.session_id),
        agent=checked_agent(request.agent_name),
        recent_turns=request.recent_turns,
        semantic_matches=request.semantic_matches,
        min_score=request.min_score,
        max_tokens=request.max_tokens,
    ).checked()


def session_of(session_id: str) -> UUID | None:
    """Reads the id of a session; None when it is left out. Raises: Invalid."""
    return to_uuid(session_id, "run", field="session_id") if session_id else None


def memory_id_of(memory_id: str) -> MemoryId:
    """Reads the id of a memory. Raises: Invalid."""
    return MemoryId(to_uuid(memory_id, "memory", field="memory_id"))


def _raised(part: Part) -> Part:
    """Content of an outside caller is at most as trusted as a user's, whatever its label says."""
    if part.label.integrity is not Integrity.TRUSTED:
        return part
    return replace(part, label=replace(part.label, integrity=Integrity.USER))


def _digest(request: pb.RememberRequest, project: str) -> bytes:
    """Identity of the intent: all that is asked for, and for which project, without the call it is asked by."""
    intent = pb.RememberRequest()
    intent.CopyFrom(request)
    intent.ClearField("context")
    if project:
        intent.context.project = project
    intent.ClearField("request_id")
    return sha256(intent.SerializeToString(deterministic=True)).digest()


# --- answers ---------------------------------------------------------------------------------------------------------


def memory_to_proto(memory: Memory) -> pb.Memory:
    """Writes a memory."""
    message = pb.Memory(
        memory_id=name_of(memory.id),
        session_id="" if memory.session is None else from_uuid("run", memory.session),
        agent_name=memory.agent,
        parts=parts_to_proto(memory.parts),
        tags=memory.tags,
        create_time=_timestamp(memory.created),
        embedded=memory.placement is Placement.PLACED,
        project=memory.project,
    )
    if memory.expires is not None:
        message.expire_time.CopyFrom(_timestamp(memory.expires))
    return message


def memories_to_proto(memories: Iterable[Memory]) -> list[pb.Memory]:
    """Writes memories in order."""
    return [memory_to_proto(memory) for memory in memories]


def recalled_to_proto(recalled: Recalled) -> pb.RecallResponse:
    """Writes the answer to a recall."""
    return pb.RecallResponse(
        recent=memories_to_proto(recalled.recent),
        semantic=[
            pb.ScoredMemory(memory=memory_to_proto(match.memory), score=match.score) for match in recalled.semantic
        ],
        semantic_skipped=recalled.semantic_skipped,
        truncated=recalled.truncated,
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


# --- what is sealed in rows ------------------------------------------------------------------------------------------


class ProtoPayload:
    """Writes parts and context as a `RememberRequest` without the rest. A `PayloadCodec`."""

    def encode(self, parts: tuple[Part, ...], context: CallContext) -> bytes:
        """See `PayloadCodec.encode`."""
        message = pb.RememberRequest(context=context_to_proto(context), parts=parts_to_proto(parts))
        return message.SerializeToString()

    def decode(self, payload: bytes) -> tuple[tuple[Part, ...], CallContext]:
        """See `PayloadCodec.decode`."""
        message = pb.RememberRequest.FromString(payload)
        return parts_from_proto(message.parts), context_from_proto(message.context)
