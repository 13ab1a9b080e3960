"""What runs were estimated at and what they took, and what is learnt from it."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0016"
down_revision = "0015"

_TABLES = (
    """CREATE TABLE run_estimate (tenant_id uuid NOT NULL, run_id uuid NOT NULL, name text NOT NULL,
        reference text NOT NULL, project text NOT NULL, estimated bigint[] NOT NULL, actual bigint[] NOT NULL,
        calibrated_on integer NOT NULL, end_time timestamptz NOT NULL,
        CONSTRAINT pk_run_estimate PRIMARY KEY (run_id))""",
    "CREATE INDEX ix_run_estimate_tenant ON run_estimate (tenant_id, run_id)",
    "CREATE INDEX ix_run_estimate_name ON run_estimate (tenant_id, name, run_id)",
    """CREATE TABLE estimate_pending (tenant_id uuid NOT NULL, run_id uuid NOT NULL,
        CONSTRAINT pk_estimate_pending PRIMARY KEY (tenant_id, run_id))""",
    """CREATE TABLE estimate_place (tenant_id uuid NOT NULL, run_id uuid NOT NULL,
        CONSTRAINT pk_estimate_place PRIMARY KEY (tenant_id))""",
    """CREATE TABLE run_habits (tenant_id uuid NOT NULL, kind text NOT NULL, name text NOT NULL, habits jsonb NOT NULL,
        update_time timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_run_habits PRIMARY KEY (tenant_id, kind, name))""",
    "CREATE INDEX ix_run_habits_age ON run_habits (tenant_id, update_time)",
)


def upgrade(op: Operations) -> None:
    """Makes the tables. Runs of the day before are learnt from as well."""
    run_together(op, _TABLES)
    tenant_table(op, "run_estimate", app=("SELECT", "INSERT"))
    tenant_table(op, "estimate_pending", app=("DELETE", "SELECT"))
    tenant_table(op, "estimate_place", app=())
    tenant_table(op, "run_habits", app=("SELECT", "INSERT", "UPDATE"))


def downgrade(op: Operations) -> None:
    """Drops them."""
    run_together(
        op,
        [f"DROP TABLE {table}" for table in ("run_habits", "estimate_place", "estimate_pending", "run_estimate")],
    )
