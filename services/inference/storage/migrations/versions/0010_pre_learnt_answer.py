"""Answers that bandits have learnt from, until somebody says how good they were."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0010"
down_revision = "0009"


def upgrade(op: Operations) -> None:
    """Makes the table."""
    op.execute("""
        CREATE TABLE learnt_answer (
            tenant_id uuid NOT NULL,
            hold_id uuid NOT NULL,
            route text NOT NULL,
            kind text NOT NULL CONSTRAINT ck_learnt_answer_kind CHECK (kind IN ('thompson', 'linucb')),
            arm text NOT NULL,
            project text NOT NULL,
            features double precision[] NOT NULL,
            points double precision NOT NULL,
            weight double precision NOT NULL,
            quality_weight double precision NOT NULL,
            quality double precision CONSTRAINT ck_learnt_answer_quality CHECK (quality BETWEEN 0 AND 1),
            answer_time timestamptz NOT NULL,
            CONSTRAINT pk_learnt_answer PRIMARY KEY (tenant_id, hold_id)
        )""")
    op.execute("CREATE INDEX ix_learnt_answer_answer_time ON learnt_answer (answer_time)")
    op.execute("CREATE INDEX ix_bandit_arm_updated_time ON bandit_arm (updated_time)")
    tenant_table(op, "learnt_answer", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops them; what was learnt stays."""
    op.execute("DROP INDEX ix_bandit_arm_updated_time")
    op.execute("DROP TABLE learnt_answer")
