"""Settings of what is done when providers fail."""

from pydantic import Field

from services.meshkit.settings import ServiceSettings


class ReliabilitySettings(ServiceSettings):
    """How long and how often the deployments of the settings are asked, and when they are left alone."""

    hop_tries: int = Field(
        default=1,
        ge=1,
        le=3,
        description="Times that one deployment is asked in one call before the next is; repeats stay under a quarter.",
    )
    claim_seconds: float = Field(
        default=10.0,
        ge=1,
        le=300,
        description="How long a replica is waited for that makes a call and is not heard of; then another may make it.",
    )
    first_byte_seconds: float = Field(
        default=60.0, gt=0, le=300, description="Longest time until a provider begins to answer."
    )
    between_bytes_seconds: float = Field(
        default=60.0, gt=0, le=300, description="Longest silence inside an answer; a model that thinks may be silent."
    )
    breaker_failures: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Failures in a row, or half of twice as many calls in 10 s, that have a deployment left alone.",
    )
    probe_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Pause between two looks, without a prompt, at a model that is left alone or idle; 0: no looks.",
    )
