"""How memories lie in Milvus: what spaces, agents and projects are called there, and what a search asks for."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid5

from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space
from services.memory.usecases.ports import Match, PlacedVector
from services.meshkit.core.identity import TenantId

#: What the names of our collections begin with.
PREFIX: Final = "comitia_memory_"


def collection_of(space: Space) -> str:
    """Names the collection of a space."""
    # With its fields in the name: one of other fields is not written to, and filled anew.
    return f"{PREFIX}{sha256(f'{space.model}/{space.dimensions}/project'.encode()).hexdigest()[:24]}"


def key_of(tenant: TenantId, name: str) -> UUID:
    """Stands for an agent or a project in filters, which never hold what callers wrote."""
    return uuid5(tenant, name)


def row_of(vector: PlacedVector) -> dict[str, object]:
    """Writes a vector as a row."""
    return {
        "id": vector.memory.hex,
        "tenant": vector.tenant.hex,
        "project": key_of(vector.tenant, vector.project).hex,
        "agent": key_of(vector.tenant, vector.agent).hex,
        "vector": vector.vector.tolist(),
    }


def filter_of(tenant: TenantId, project: str, agent: str) -> str:
    """Says which rows to look at; those of every agent when none is named."""
    where = f'{filter_of_tenant(tenant)} and project == "{key_of(tenant, project).hex}"'
    return f'{where} and agent == "{key_of(tenant, agent).hex}"' if agent else where


def filter_of_tenant(tenant: TenantId) -> str:
    """Says which rows are a tenant's."""
    return f'tenant == "{tenant.hex}"'


def match_of(hit: Mapping[str, Any]) -> Match:  # neither library has types
    """Reads what a search found."""
    return Match(MemoryId(UUID(hit["id"])), max(-1.0, min(1.0, float(hit["distance"]))))
