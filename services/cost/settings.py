"""The settings of cost."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.meshkit.settings import ServiceSettings


class CostSettings(ServiceSettings):
    """Read once from `COMITIA_COST_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_COST_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    tenant_limit_nano_usd: int = Field(
        default=100_000_000_000,
        ge=0,
        le=2**62,
        description="Limit of a tenant's own budget when it is made, nano-USD; SetBudgetLimit changes it afterwards.",
    )
    free_providers: tuple[str, ...] = Field(
        default=("local", "stub"),
        description="Providers that charge nothing, whatever the model: models of this machine. A JSON list.",
    )
    sweep_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Pause between two looks for holds that nobody settled in time."
    )
    rollup_seconds: float = Field(
        default=2.0,
        gt=0,
        le=600,
        description="Pause between two roll-ups of the ledger; figures are exact meanwhile, from its entries.",
    )
    event_days: int = Field(
        default=400,
        ge=0,
        le=36_500,
        description="Days that single charges and alerts are kept; sums by hour and day stay. 0 keeps them for ever.",
    )
    unknown_price: Literal["refuse", "flag"] = Field(
        default="refuse",
        description="What is done with calls of models without a price where a tenant has not said: `refuse`, or"
        " `flag`, which charges them at a ceiling and marks the charge until a price is imported.",
    )
    unknown_price_least_ceiling_nano_usd_per_million: int = Field(
        default=600_000_000_000,
        ge=1,
        le=10**15,
        description="Lowest ceiling that tokens without a price are held and charged at, nano-USD per million (600 USD:"
        " no shipped price is higher). As long as no model costs more, no budget is exceeded by what providers charge.",
    )
    hold_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description="Days that holds of ended calls are kept. So long a repeat of a request finds its hold, late usage"
        " corrects an assumed charge, and a charge can be priced anew. Charges stay. 0 keeps holds for ever.",
    )
    price_refresh_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="How long a price changed by another replica may go unseen."
    )
    watch_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Pause between two looks whether anybody's spend is unusual."
    )
    watch_floor_nano_usd: int = Field(
        default=50_000_000,
        ge=1,
        le=2**62,
        description="An hour is unusual only when it costs so much more than it usually does, nano-USD (5 cents).",
    )
    watch_cooldown_seconds: int = Field(
        default=3600, ge=0, le=604_800, description="How long after an alert on spend the tenant gets no other one."
    )
    spend_batch_items: int = Field(
        default=256, ge=2, le=1000, description="Most operations that share one transaction."
    )
    spend_queue_items: int = Field(
        default=8192, ge=1, description="Operations that may wait; one more is refused with RESOURCE_EXHAUSTED."
    )
    wait_queue_calls: int = Field(
        default=2048,
        ge=2,
        le=3072,
        description="Calls that may wait for money which others hold, half of them of one tenant; one more is refused"
        " with RESOURCE_EXHAUSTED. Fewer than a batch stream takes on (4096): money that is given back always gets in.",
    )
    wait_poll_seconds: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="How long those who wait for money may not hear that another replica gave some back.",
    )
    pool_size: int = Field(default=4, ge=2, le=64, description="Connections of the role `app` for what is spent.")
    lock_wait_seconds: float = Field(
        default=0.1,
        gt=0,
        le=5,
        description="Longest that spending of all tenants waits for a locked row; whose row it is then waits apart.",
    )
    report_pool_size: int = Field(
        default=2, ge=1, le=64, description="Connections for reports, which never take those of what is spent."
    )
