"""Lets an answer be recorded that the law has not judged."""

from alembic.operations import Operations

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations) -> None:
    op.execute("ALTER TABLE call ADD COLUMN unjudged boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE call ADD CONSTRAINT ck_call_unjudged CHECK (NOT unjudged OR outcome IS NOT NULL)")


def downgrade(op: Operations) -> None:
    # The code before does not understand these outcomes; it makes the call again.
    op.execute("DELETE FROM call WHERE unjudged")
    op.execute("ALTER TABLE call DROP COLUMN unjudged")
