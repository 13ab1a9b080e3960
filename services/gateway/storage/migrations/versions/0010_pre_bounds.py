"""What an issuer gives at most, and what is counted to keep one tenant within its bounds."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together

revision = "0010"
down_revision = "0009"

# Who added an issuer before held all that an administrator holds, and perhaps not more.
_COLUMNS = """
ALTER TABLE oidc_issuer ADD COLUMN most_roles text[] NOT NULL DEFAULT '{admin,auditor,tenant_user}';
CREATE INDEX ix_api_key_not_revoked ON api_key (tenant_id) WHERE revoke_time IS NULL
"""


def upgrade(op: Operations) -> None:
    """Adds both."""
    run_together(op, _COLUMNS.split(";"))


def downgrade(op: Operations) -> None:
    """Drops both."""
    op.execute("DROP INDEX ix_api_key_not_revoked")
    op.execute("ALTER TABLE oidc_issuer DROP COLUMN most_roles")
