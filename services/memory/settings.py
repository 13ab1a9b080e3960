"""The settings of memory."""

from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.meshkit.settings import ServiceSettings


class MemorySettings(ServiceSettings):
    """Read once from `COMITIA_MEMORY_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_MEMORY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    data_dir: Path = Field(
        default=Path("var/memory"), description="Folder of Milvus Lite. Can be deleted at any time: it is filled again."
    )
    milvus_url: SecretStr | None = Field(
        default=None,
        description="A Milvus server, `http://user:password@host:19530/database`. Without it Milvus Lite is used.",
    )
    embedding_model: str = Field(
        default="default", max_length=200, description="Embedding model to ask inference for, as ListModels names it."
    )
    similarity_seconds: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Longest time that a recall waits for embedder and vector store together; then it goes without.",
    )
    query_vectors_per_tenant: int = Field(
        default=64, ge=1, le=10_000, description="Vectors of the latest queries kept per tenant."
    )
    query_vector_tenants: int = Field(
        default=256, ge=1, le=100_000, description="Tenants of which vectors of queries are kept."
    )
    embed_queue_tenants: int = Field(
        default=10_000, ge=1, description="Tenants that may wait to be embedded; one more waits for its next call."
    )
    embed_look_seconds: float = Field(
        default=30.0, ge=0, le=3600, description="How often recalls look for memories that a crash left unembedded."
    )
    embed_gather_seconds: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="How long a new memory waits for others, so that answers go first and one call embeds them all.",
    )
    embed_lease_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="How long memories taken to be embedded belong to one process."
    )
    sweep_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="Pause between two looks for vectors to place or to delete."
    )
    check_seconds: float = Field(
        default=60.0, gt=0, le=86_400, description="Pause between two comparisons of rows with vectors in the store."
    )
    remember_batch_items: int = Field(default=256, ge=1, le=1000, description="Most memories of one transaction.")
    remember_queue_items: int = Field(
        default=4096, ge=1, description="Memories that may wait to be stored; one more is refused."
    )
    pool_size: int = Field(default=4, ge=2, le=64, description="Connections of the role `app`.")

    @model_validator(mode="after")
    def _finds_a_store(self) -> Self:
        if self.milvus_url is None and find_spec("milvus_lite") is None:
            raise ValueError("milvus_url must name a server: Milvus Lite is not installed here")
        return self
