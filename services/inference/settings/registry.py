"""Settings of the registry of models."""

from pydantic import Field

from services.meshkit.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What tenants may register."""

    private_endpoints: bool = Field(
        default=False,
        description="True to ask registered models at private and loopback addresses too, for closed networks.",
    )
