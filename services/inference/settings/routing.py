"""Settings of where calls may go, and of who goes first."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.meshkit.settings import ServiceSettings


class RoutingSettings(ServiceSettings):
    """How far prompts may go."""

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

    @field_validator("mesh_networks", "egress_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(one.strip() for one in value.split(",") if one.strip())
        return value
