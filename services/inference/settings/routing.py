"""Settings of where calls may go, and of who goes first."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import NoDecode

from services.meshkit.settings import ServiceSettings


class ProviderLimits(BaseModel):
    """What a provider takes of one replica; 0: any number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrency: int = Field(default=0, ge=0, le=100_000)
    requests_per_minute: int = Field(default=0, ge=0, le=10_000_000)
    tokens_per_minute: int = Field(default=0, ge=0, le=10_000_000_000)


class RoutingSettings(ServiceSettings):
    """How far prompts may go, how many calls are made and wait at once, and which are answered from memory."""

    egress: Literal["mesh", "listed", "any"] = Field(
        default="any",
        description="How far prompts may go. `mesh`: to this machine and MESH_NETWORKS only (air-gapped); `listed`:"
        " also to EGRESS_HOSTS; `any`: wherever deployments are. Others are refused before a socket is made.",
    )
    mesh_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(), description="Networks of the mesh, separated by commas, such as `10.0.0.0/8,fd00::/8`."
    )
    egress_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts that may be asked when EGRESS is `listed`, separated by commas, such as `api.openai.com`.",
    )

    provider_limits: dict[Literal["openai", "anthropic", "openai_compatible", "local"], ProviderLimits] = Field(
        default={},
        description="What each provider takes of one replica, as JSON, such as"
        ' `{"openai": {"max_concurrency": 20, "requests_per_minute": 500, "tokens_per_minute": 200000}}`.',
    )
    max_model_calls: int = Field(
        default=256, ge=1, le=10_000, description="Model calls made at once; of more, tenants take turns."
    )
    max_waiting_calls: int = Field(
        default=1_024, ge=0, le=100_000, description="Model calls that wait; one more is refused with a retry hint."
    )
    max_waiting_calls_per_tenant: int = Field(
        default=64, ge=0, le=100_000, description="Model calls of one tenant that wait, interactive and batch apart."
    )
    seat_wait_seconds: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="Longest wait of an interactive call; then it is refused with a retry hint.",
    )

    answer_cache_seconds: float = Field(
        default=0.0,
        ge=0,
        le=7 * 24 * 3600,
        description="How long an answer is given to equal calls of the same tenant that no route decides on; 0: never.",
    )
    answer_cache_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        le=2**36,
        description="Most bytes of kept answers in memory, and of those to questions that were compared.",
    )

    @field_validator("mesh_networks", "egress_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(one.strip() for one in value.split(",") if one.strip())
        return value
