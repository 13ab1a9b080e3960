"""Settings of batches that providers work on for hours."""

from pydantic import Field

from services.meshkit.settings import ServiceSettings


class BatchSettings(ServiceSettings):
    """How batches are followed."""

    batch_poll_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Longest pause between two looks at a batch that a provider works on."
    )
    batch_retention_hours: float = Field(
        default=168.0, gt=0, le=24 * 365, description="How long a batch and its answers are kept after its end."
    )
