"""The settings of inference."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.inference.settings.batches import BatchSettings
from services.inference.settings.doors import DoorSettings
from services.inference.settings.providers import ProviderSettings
from services.inference.settings.registry import RegistrySettings
from services.inference.settings.reliability import ReliabilitySettings
from services.inference.settings.routing import RoutingSettings


class InferenceSettings(
    ProviderSettings, RegistrySettings, ReliabilitySettings, RoutingSettings, DoorSettings, BatchSettings
):
    """Read once from `COMITIA_INFERENCE_…`. Each part of the service has its own in a file beside this one."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_INFERENCE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    max_embedding_calls: int = Field(
        default=128, ge=1, le=10_000, description="Embedding calls made at once; one more is refused with a retry hint."
    )
    vector_cache_bytes: int = Field(
        default=20 * 1024 * 1024, ge=0, description="Of vectors kept in memory, about 2 KB each for 384 components."
    )
    call_retention_hours: float = Field(
        default=24.0,
        gt=0,
        le=24 * 365,
        description="How long an answer is kept for repeats of its call; that of a run, once the run has recorded it.",
    )
    unacknowledged_retention_hours: float = Field(
        default=24.0 * 30,
        gt=0,
        le=24 * 365,
        description="How long the answer to a run is kept at most, should nobody say that the run has recorded it.",
    )
    sweep_seconds: float = Field(
        default=15.0, gt=0, le=3600, description="Pause between two looks for answers that are not settled yet."
    )
    pool_size: int = Field(
        default=4, ge=2, le=64, description="Connections of the role `app`. A call takes one for two round trips."
    )
