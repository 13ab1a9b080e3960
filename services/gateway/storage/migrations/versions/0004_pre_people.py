"""People, the issuers that vouch for them, revoked subjects, and grants that stand on more than keys."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0004"
down_revision = "0003"

_TABLES = """
CREATE TABLE person (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    email text NOT NULL,
    roles text[] NOT NULL CHECK (cardinality(roles) > 0),
    create_time timestamptz NOT NULL,
    last_login_time timestamptz,
    remove_time timestamptz
);
CREATE UNIQUE INDEX uq_person_email ON person (tenant_id, email) WHERE remove_time IS NULL;
CREATE INDEX ix_person_tenant_id ON person (tenant_id, id);
CREATE TABLE oidc_issuer (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    issuer text NOT NULL,
    client_id text NOT NULL,
    trusted_domains text[] NOT NULL,
    default_roles text[] NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT uq_oidc_issuer UNIQUE (tenant_id, issuer, client_id)
);
CREATE TABLE person_at_issuer (
    tenant_id uuid NOT NULL,
    person_id uuid NOT NULL,
    oidc_issuer_id uuid NOT NULL,
    subject text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT pk_person_at_issuer PRIMARY KEY (tenant_id, oidc_issuer_id, person_id)
);
CREATE TABLE revoked_subject (
    tenant_id uuid NOT NULL,
    subject text NOT NULL,
    revoke_time timestamptz NOT NULL,
    CONSTRAINT pk_revoked_subject PRIMARY KEY (tenant_id, subject)
);
CREATE INDEX ix_revoked_subject_revoke_time ON revoked_subject (revoke_time);
ALTER TABLE run_grant ALTER COLUMN api_key_id DROP NOT NULL;
ALTER TABLE run_grant ADD COLUMN subject text;
ALTER TABLE run_grant ADD CONSTRAINT ck_run_grant_standing CHECK (api_key_id IS NOT NULL OR subject IS NOT NULL)
"""


def upgrade(op: Operations) -> None:
    """Makes the tables and their policies."""
    run_together(op, _TABLES.split(";"))
    # Looked up across tenants before anybody is known: whose grant, whose sign-in.
    tenant_table(op, "person", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    tenant_table(op, "oidc_issuer", app=("SELECT", "INSERT", "DELETE"), maintenance=("SELECT",))
    tenant_table(op, "person_at_issuer", app=("SELECT", "INSERT", "UPDATE", "DELETE"), maintenance=("SELECT",))
    tenant_table(op, "revoked_subject", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops them, and grants that stand on no key."""
    for table in ("revoked_subject", "person_at_issuer", "oidc_issuer", "person"):
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE run_grant DROP CONSTRAINT ck_run_grant_standing")
    op.execute("DELETE FROM run_grant WHERE api_key_id IS NULL")
    op.execute("ALTER TABLE run_grant DROP COLUMN subject")
    op.execute("ALTER TABLE run_grant ALTER COLUMN api_key_id SET NOT NULL")
