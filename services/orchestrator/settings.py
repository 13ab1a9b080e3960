"""Every knob of the orchestrator."""

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.settings import HostPort, ServiceSettings
from services.orchestrator.domain.preflight import PreflightMode

Preflights = Literal["off", "warn", "reject", "degrade"]


class OrchestratorSettings(ServiceSettings):
    """Read once from `COMITIA_ORCHESTRATOR_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_ORCHESTRATOR_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    replica: str = Field(
        default="orchestrator-0",
        pattern=r"^[a-z0-9-]{1,63}$",
        description="Name of this replica, the same after a restart: it takes up its own runs without waiting.",
    )
    max_runs: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Runs in memory at once, and as many sub-runs that they wait for. One more start is refused "
        "with RUNS_AT_LIMIT, also of a tenant that has twice as many as are free; one more sub-run waits.",
    )
    workflow_threads: int = Field(
        default=1, ge=1, le=64, description="Threads that read and check definitions of workflows."
    )
    max_waiting_workflows: int = Field(
        default=64, ge=1, description="Definitions that may wait to be read; one more is refused."
    )
    database_connections: int = Field(default=8, ge=2, le=100, description="Most connections to the database per role.")
    object_store: str = Field(
        description="Where facts lie that are too big for the database, sealed: a directory, or `s3://bucket/prefix`, "
        "`gs://…`, `az://…`. All replicas share one."
    )
    max_inline_bytes: int = Field(
        default=262_144, ge=1_024, le=16_777_216, description="A fact of more bytes than this goes to the object store."
    )
    blob_grace_hours: float = Field(
        default=24.0, ge=1, description="Age from which an object that no journal names is deleted."
    )
    blob_sweep_seconds: float = Field(
        default=3600.0, gt=0, description="Pause between two rounds that look for such objects."
    )
    run_hot_days: float = Field(
        default=90.0,
        gt=0,
        description="Facts of runs that ended longer ago than this move from the database to the object store, unless "
        "their tenant has a rule of its own.",
    )
    run_hot_days_of: dict[str, float] = Field(
        default_factory=dict[str, float],
        description='The same for single tenants without a rule of their own, as a JSON object: `{"tenant_…": 30}`.',
    )
    run_archive_seconds: float = Field(
        default=3600.0, gt=0, description="Pause between two rounds that look for runs to archive."
    )
    run_delete_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Pause between two rounds that look for runs to delete by their tenants' rules.",
    )
    estimate_seconds: float = Field(
        default=10.0, gt=0, description="Pause between two rounds that learn from runs what the next ones will take."
    )
    preflight: Preflights = Field(
        default="off",
        description="What is done at the start of a run whose estimate does not fit its budgets, where the caller does "
        "not say: `off`, `warn`, `reject` or `degrade`.",
    )
    preflight_of: dict[str, Preflights] = Field(
        default_factory=dict[str, Preflights],
        description='The same for single tenants, as a JSON object: `{"tenant_…": "warn"}`.',
    )
    peer_address: HostPort | None = Field(
        default=None,
        description="Address at which the other orchestrators reach this one, to lend it their workers. Without it "
        "`listen`, unless that names all addresses of a machine: then its runs get steps made by its own workers only.",
    )
    max_workers: int = Field(
        default=1_000, ge=1, le=100_000, description="Streams of workers at once; one more gets WORKERS_AT_LIMIT."
    )
    max_workers_per_tenant: int = Field(
        default=200, ge=1, le=100_000, description="Streams of workers of one tenant at once."
    )
    max_waiting_steps: int = Field(
        default=500_000,
        ge=2,
        le=10_000_000,
        description="Steps that wait for a worker at once; others stay with their runs until there is room.",
    )
    max_waiting_steps_per_tenant: int = Field(
        default=100_000, ge=2, le=10_000_000, description="Steps of one tenant that wait for a worker at once."
    )

    @property
    def own_retentions(self) -> dict[TenantId, timedelta]:
        """How long facts of single tenants stay in the database."""
        return {
            TenantId(to_uuid(tenant, "tenant", field="run_hot_days_of")): timedelta(days=days)
            for tenant, days in self.run_hot_days_of.items()
        }

    @property
    def own_preflights(self) -> dict[TenantId, PreflightMode]:
        """What is done at the start of runs of single tenants."""
        return {
            TenantId(to_uuid(tenant, "tenant", field="preflight_of")): PreflightMode[mode.upper()]
            for tenant, mode in self.preflight_of.items()
        }

    @property
    def default_preflight(self) -> PreflightMode:
        """What is done at the start of all other runs."""
        return PreflightMode[self.preflight.upper()]

    @field_validator("preflight_of")
    @classmethod
    def _check_preflights(cls, given: dict[str, Preflights]) -> dict[str, Preflights]:
        for tenant in given:
            try:
                to_uuid(tenant, "tenant", field="preflight_of")
            except Invalid as error:
                raise ValueError(error.message) from error
        return given

    @field_validator("run_hot_days_of")
    @classmethod
    def _check_tenants(cls, given: dict[str, float]) -> dict[str, float]:
        for tenant, days in given.items():
            try:
                to_uuid(tenant, "tenant", field="run_hot_days_of")
            except Invalid as error:
                raise ValueError(error.message) from error
            if not days > 0:
                raise ValueError(f"{tenant}: {days} days; must be more than 0")
        return given

    @property
    def reached_at(self) -> str | None:
        """Where other replicas reach this one; None when they do not."""
        if self.peer_address is not None:
            return self.peer_address
        host, _, port = self.listen.rpartition(":")
        return None if host in ("0.0.0.0", "[::]") or port == "0" else self.listen  # noqa: S104  # not bound here
