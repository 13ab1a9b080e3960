"""Prices that operators import, and why an entry of the ledger was written that no call made."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of
from services.meshkit.sql.roles import roles_of

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations) -> None:
    """Lets requests add prices and end them; none is ever deleted or changed otherwise."""
    op.execute("ALTER TABLE price ADD COLUMN imported boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE cost_event ADD COLUMN note text NOT NULL DEFAULT ''")
    op.execute(f"GRANT INSERT, UPDATE (end_time) ON price TO {_app(op)}")
    op.execute(f"GRANT INSERT ON price_tier TO {_app(op)}")


def downgrade(op: Operations) -> None:
    """Takes the grants back; imported prices stay."""
    op.execute(f"REVOKE INSERT ON price_tier FROM {_app(op)}")
    op.execute(f"REVOKE INSERT, UPDATE (end_time) ON price FROM {_app(op)}")
    op.execute("ALTER TABLE cost_event DROP COLUMN note")
    op.execute("ALTER TABLE price DROP COLUMN imported")


def _app(op: Operations) -> str:
    return quoted(roles_of(database_of(op)).app)
