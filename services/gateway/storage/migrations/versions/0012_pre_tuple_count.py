"""How many relation tuples a tenant has, so that no write has to count them."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together

revision = "0012"
down_revision = "0011"

# The owner of the tables sees the rows of all tenants only while they are not under forced row-level security.
_COUNT = """
ALTER TABLE access_model NO FORCE ROW LEVEL SECURITY;
ALTER TABLE relation_tuple NO FORCE ROW LEVEL SECURITY;
UPDATE access_model AS model
   SET tuples = (SELECT count(*) FROM relation_tuple AS one WHERE one.tenant_id = model.tenant_id);
ALTER TABLE access_model FORCE ROW LEVEL SECURITY;
ALTER TABLE relation_tuple FORCE ROW LEVEL SECURITY
"""


def upgrade(op: Operations) -> None:
    """Adds the column and counts."""
    op.execute("ALTER TABLE access_model ADD COLUMN tuples bigint NOT NULL DEFAULT 0")
    run_together(op, _COUNT.split(";"))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("ALTER TABLE access_model DROP COLUMN tuples")
