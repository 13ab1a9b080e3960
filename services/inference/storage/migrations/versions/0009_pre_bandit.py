"""What bandits have learnt, as sums to which replicas add."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0009"
down_revision = "0008"


def upgrade(op: Operations) -> None:
    """Makes the table."""
    op.execute("""
        CREATE TABLE bandit_arm (
            tenant_id uuid NOT NULL,
            route text NOT NULL,
            kind text NOT NULL CONSTRAINT ck_bandit_arm_kind CHECK (kind IN ('thompson', 'linucb')),
            arm text NOT NULL,
            pulls bigint NOT NULL,
            sums double precision[] NOT NULL,
            updated_time timestamptz NOT NULL,
            CONSTRAINT pk_bandit_arm PRIMARY KEY (tenant_id, route, kind, arm)
        )""")
    tenant_table(op, "bandit_arm", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE bandit_arm")
