"""The settings of tools."""

import json
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.meshkit.settings import ServiceSettings


class ToolsSettings(ServiceSettings):
    """Read once from `COMITIA_TOOLS_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_TOOLS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    http_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts that the shipped `http_get` may ask, separated by commas or as a JSON list, such as"
        " `api.example.com,*.wikipedia.org`; `*` for any public one. Empty: none.",
    )
    allow_private_addresses: bool = Field(
        default=False,
        description="True to let tools reach loopback and private networks. For tests and closed networks.",
    )
    max_tool_calls: int = Field(
        default=256, ge=1, le=10_000, description="Tool calls made at once; one more is refused with a retry hint."
    )
    max_connections: int = Field(default=128, ge=1, le=10_000, description="Sockets to the outside at any time.")
    cache_bytes: int = Field(
        default=16 * 1024 * 1024, ge=0, le=2**32, description="Most bytes of tool results kept in memory; 0 keeps none."
    )
    embed_seconds: float = Field(
        default=2.0, gt=0, le=10, description="Longest wait for vectors in a search; then it is by words only."
    )
    call_retention_hours: float = Field(
        default=72.0, gt=0, le=24 * 365, description="How long the result of a call id is kept for repeats."
    )
    sweep_seconds: float = Field(
        default=15.0, gt=0, le=3600, description="Pause between two looks for results that are not settled yet."
    )
    pool_size: int = Field(default=4, ge=2, le=64, description="Connections of the role `app`.")

    @field_validator("http_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str) and value.lstrip().startswith("["):
            return json.loads(value)
        if isinstance(value, str):
            return tuple(host.strip() for host in value.split(",") if host.strip())
        return value
