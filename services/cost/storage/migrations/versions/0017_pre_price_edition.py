"""Which shipped price list the table was brought up to last."""

from alembic.operations import Operations

from services.meshkit.sql.rls import untenanted_table

revision = "0017"
down_revision = "0016"


def upgrade(op: Operations) -> None:
    """Makes it; the next start of a replica fills it in."""
    op.execute("CREATE TABLE price_edition (id smallint PRIMARY KEY CHECK (id = 1), edition integer NOT NULL)")
    op.execute("INSERT INTO price_edition (id, edition) VALUES (1, 0)")
    untenanted_table(
        op, "price_edition", reason="prices are the same for all tenants", maintenance=("SELECT", "UPDATE")
    )


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE price_edition")
