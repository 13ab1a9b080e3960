"""Settings of the providers: addresses, keys, models."""

from typing import Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from services.meshkit.settings import ServiceSettings

_OPENAI_ADDRESS: Final = "https://api.openai.com/v1"


def _or_as_the_sdk(variable: str) -> AliasChoices:
    """Reads our own variable, else the one that the provider's own SDK reads."""
    return AliasChoices(f"COMITIA_INFERENCE_{variable}", variable)


class ProviderSettings(ServiceSettings):
    """Which models are configured.

    They become the chain `default`, in this order: OpenAI, Anthropic, the compatible server, the local model. The first
    that answers is taken.
    """

    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=_or_as_the_sdk("OPENAI_API_KEY"),
        description="Key of OpenAI; without it OpenAI is not asked.",
    )
    openai_adapter: Literal["openai", "openai_responses", "azure"] = Field(
        default="openai",
        description="Who speaks there: OpenAI, by chat completions or by responses, or Azure at an address such as "
        "`https://NAME.openai.azure.com/openai/v1`.",
    )
    openai_form: Literal["wire", "sdk"] = Field(
        default="wire",
        description="By what it is asked: `wire`, by the mesh itself, or `sdk`, by OpenAI's official client.",
    )
    openai_base_url: str = Field(
        default=_OPENAI_ADDRESS,
        validation_alias=_or_as_the_sdk("OPENAI_BASE_URL"),
        description="Where OpenAI's dialect is spoken.",
    )
    openai_model: str = Field(default="gpt-4o-mini", description="Model of OpenAI that is asked.")
    openai_embedding_model: str | None = Field(
        default=None,
        description="Model of OpenAI that embeds, such as `text-embedding-3-small`. None: it does not embed.",
    )
    openai_region: str = Field(default="", description="Region that OpenAI's address stands in; empty means unknown.")
    openai_context_tokens: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Tokens that the window of that model holds; 0: nobody knows, so it is shown no PDFs.",
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=_or_as_the_sdk("ANTHROPIC_API_KEY"),
        description="Key of Anthropic; without it Anthropic is not asked.",
    )
    anthropic_form: Literal["wire", "sdk"] = Field(default="wire", description="As `openai_form`, of Anthropic.")
    anthropic_base_url: str = Field(
        default="https://api.anthropic.com",
        validation_alias=_or_as_the_sdk("ANTHROPIC_BASE_URL"),
        description="Address of Anthropic.",
    )
    anthropic_model: str = Field(default="claude-haiku-4-5", description="Model of Anthropic that is asked.")
    anthropic_region: str = Field(default="", description="Region that Anthropic's address stands in; empty: unknown.")
    anthropic_context_tokens: int = Field(
        default=0, ge=0, le=10_000_000, description="As `openai_context_tokens`, of Anthropic's model."
    )
    compatible_base_url: str | None = Field(
        default=None,
        description="Address of a server that speaks OpenAI's dialect, such as `http://127.0.0.1:11434/v1` for Ollama.",
    )
    compatible_adapter: str = Field(
        default="openai_compatible",
        description="Which server it is: `vllm`, `tgi`, `ollama`, `llama_cpp`, or the adapter of an installed package. "
        "One that is named is told more: schemas, ways to sample, choices of tools.",
    )
    compatible_api_key: SecretStr | None = Field(default=None, description="Key of that server, if it wants one.")
    compatible_model: str = Field(default="", description="Model of that server. Required with its address.")
    compatible_embedding_model: str | None = Field(
        default=None, description="Model of that server that embeds. None: it does not embed."
    )
    compatible_image_tokens: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Most tokens that a picture takes there; 0: nobody knows, so it is shown none.",
    )
    compatible_region: str = Field(default="", description="Region that the server stands in; empty means unknown.")
    local_model_url: str | None = Field(
        default=None, description="Address of `python -m services.inference.local`, such as `http://127.0.0.1:7413`."
    )
    local_model: str = Field(default="smollm2-135m-instruct", description="Model that the local process answers with.")
    local_embedding_model: str = Field(
        default="all-minilm-l6-v2", description="Model that the local process embeds with."
    )
    stub_enabled: bool = Field(
        default=False,
        description="True to let callers ask for the model `stub`, which is none. For tests and benchmarks.",
    )
    max_provider_connections: int = Field(default=256, ge=1, le=10_000, description="Sockets to providers at any time.")

    @field_validator("openai_api_key", "anthropic_api_key", "compatible_api_key")
    @classmethod
    def _empty_is_none(cls, key: SecretStr | None) -> SecretStr | None:
        """Takes an empty variable for one that is not set: the way to switch a provider off."""
        return key if key is not None and key.get_secret_value() else None

    @field_validator("compatible_adapter")
    @classmethod
    def _is_no_other(cls, adapter: str) -> str:
        if adapter in ("openai", "openai_responses", "azure", "anthropic", "local", "stub"):
            raise ValueError(f"{adapter} has settings of its own")
        return adapter

    @model_validator(mode="after")
    def _addresses_and_models_are_said(self) -> Self:
        if self.compatible_base_url is not None and not self.compatible_model:
            raise ValueError(
                "COMITIA_INFERENCE_COMPATIBLE_MODEL must name the model of COMITIA_INFERENCE_COMPATIBLE_BASE_URL"
            )
        if self.openai_adapter == "azure" and self.openai_base_url == _OPENAI_ADDRESS:
            raise ValueError("COMITIA_INFERENCE_OPENAI_BASE_URL must say where Azure is")
        return self
