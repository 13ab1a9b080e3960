"""Makes the table of audit entries, and the trigger that gives them their places."""

from alembic.operations import Operations

from services.meshkit.sql.audit import create_audit, drop_audit

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    create_audit(op)


def downgrade(op: Operations) -> None:
    drop_audit(op)
