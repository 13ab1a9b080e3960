"""Settings of the registry of models."""

from pathlib import Path

from pydantic import Field

from services.meshkit.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What tenants may register."""

    private_endpoints: bool = Field(
        default=False,
        description="True to ask registered models at private and loopback addresses too, for closed networks.",
    )
    registry_path: Path | None = Field(
        default=None,
        description="File that keeps, sealed, what tenants have registered, for a replica that starts while the"
        " database is away. Without it such a replica knows the models of the settings only.",
    )
