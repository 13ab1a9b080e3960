"""How the answers of routes compare with those of their shadows, as sums to which replicas add."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0011"
down_revision = "0010"


def upgrade(op: Operations) -> None:
    """Makes the table."""
    op.execute("""
        CREATE TABLE model_comparison (
            tenant_id uuid NOT NULL,
            route text NOT NULL,
            shadow text NOT NULL,
            pairs bigint NOT NULL,
            same_form bigint NOT NULL,
            similarity double precision NOT NULL,
            main_failed bigint NOT NULL,
            shadow_failed bigint NOT NULL,
            skipped bigint NOT NULL,
            main_us bigint NOT NULL,
            shadow_us bigint NOT NULL,
            main_nano_usd bigint NOT NULL,
            shadow_nano_usd bigint NOT NULL,
            main_characters bigint NOT NULL,
            shadow_characters bigint NOT NULL,
            updated_time timestamptz NOT NULL,
            CONSTRAINT pk_model_comparison PRIMARY KEY (tenant_id, route, shadow)
        )""")
    tenant_table(op, "model_comparison", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE model_comparison")
