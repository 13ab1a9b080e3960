"""What memory refuses, and why.

MeshError
├── NotFound ─────────── MemoryNotFound         MEMORY_NOT_FOUND
├── PermissionDenied ─── LawBlocked             LAW_BLOCKED
├── Conflict ─────────── CallArgumentsDiffer    CALL_ARGUMENTS_DIFFER
├── Unavailable ──────── VectorsUnavailable     VECTORS_UNAVAILABLE    never leaves the service
└── Precondition ─────── VectorSpaceMissing     VECTOR_SPACE_MISSING   never leaves the service
"""

from services.meshkit.content import CallId
from services.meshkit.core.errors import Conflict, NotFound, PermissionDenied, Precondition, Unavailable


class MemoryNotFound(NotFound):
    """No such memory in the caller's tenant, or it was forgotten."""

    reason = "MEMORY_NOT_FOUND"

    def __init__(self, memory_id: str) -> None:
        super().__init__("memory", memory_id)


class LawBlocked(PermissionDenied):
    """The law does not let this be remembered. The verdict names the rules."""

    reason = "LAW_BLOCKED"

    def __init__(self, *, verdict_id: str, rules: tuple[str, ...], bundle: str) -> None:
        named = ", ".join(rules) or "unnamed"
        super().__init__(
            f"the law {bundle or 'in force'} forbids to remember this (rules: {named}); leave out what they name",
            verdict_id=verdict_id,
            rules=named,
            bundle=bundle or None,
            stage="before",
        )


class CallArgumentsDiffer(Conflict):
    """The same call id came before with something else to remember. The first stands."""

    reason = "CALL_ARGUMENTS_DIFFER"

    def __init__(self, call_id: CallId, *, memory_id: str) -> None:
        super().__init__(
            f"call {call_id} remembered something else before; the first stands as {memory_id}",
            call_id=call_id,
            memory_id=memory_id,
        )


class VectorsUnavailable(Unavailable):
    """The vector store does not answer. Similarity is left out; memories are placed when it is back."""

    reason = "VECTORS_UNAVAILABLE"


class VectorSpaceMissing(Precondition):
    """The vector store has no vectors of this model: none were ever placed, or somebody dropped them."""

    reason = "VECTOR_SPACE_MISSING"

    def __init__(self, model: str) -> None:
        super().__init__(f"the vector store has no vectors of {model}", model=model)
