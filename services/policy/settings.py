"""Every knob of policy."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.meshkit.settings import ServiceSettings


class PolicySettings(ServiceSettings):
    """Read once from `COMITIA_POLICY_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_POLICY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    law_poll_seconds: float = Field(
        default=1.0, gt=0, le=1.5, description="Pause between two looks for laws that another replica changed."
    )
    max_known_tenants: int = Field(
        default=20_000, ge=1, description="Tenants whose law is remembered; it is loaded again when they come back."
    )
    max_compiled_bundles: int = Field(
        default=256, ge=1, description="Compiled bundles that are kept; each takes 0.1 to 30 MB."
    )
    max_bundles_per_tenant: int = Field(
        default=1000, ge=1, description="Bundle versions a tenant may store; one more is refused."
    )
    threads: int = Field(
        default=2, ge=1, le=64, description="Threads that compile bundles and judge by bundles that tenants wrote."
    )
    max_waiting_for_threads: int = Field(
        default=4096, ge=1, description="Pieces of such work that may wait; one more is refused."
    )
    max_waiting_slow: int = Field(
        default=64, ge=1, description="Verdicts that may wait for the one thread of bundles that took too long before."
    )
    record_batch_items: int = Field(
        default=256, ge=1, le=1000, description="Most verdicts whose violations share one transaction."
    )
    record_queue_items: int = Field(
        default=8192, ge=1, description="Verdicts that may wait for their violations to be recorded."
    )
    watch_poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Pause between two looks for violations that no wake told of."
    )
    max_watches: int = Field(
        default=500, ge=1, le=1000, description="Callers that may watch violations at one replica; one more is refused."
    )
    pool_size: int = Field(default=4, ge=2, le=64, description="Connections of the role `app`.")
