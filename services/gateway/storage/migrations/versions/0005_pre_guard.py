"""Service accounts, scopes and second secrets of keys, signing keys, and the order of changes that doors follow."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table, untenanted_table

revision = "0005"
down_revision = "0004"

_TABLES = """
ALTER TABLE tenant
    ADD COLUMN state text NOT NULL DEFAULT 'active'
    CONSTRAINT ck_tenant_state CHECK (state IN ('active', 'suspended', 'deleting', 'deleted'));
ALTER TABLE api_key
    ADD COLUMN scopes text[],
    ADD COLUMN service_account_id uuid,
    ADD COLUMN last_use_time timestamptz,
    ADD COLUMN rotate_time timestamptz,
    ADD COLUMN previous_salt bytea,
    ADD COLUMN previous_digest bytea CHECK (length(previous_digest) = 32),
    ADD COLUMN previous_expire_time timestamptz;
CREATE INDEX ix_api_key_service_account_id ON api_key (tenant_id, service_account_id);
CREATE TABLE service_account (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    display_name text NOT NULL,
    roles text[] NOT NULL CHECK (cardinality(roles) > 0),
    project text,
    create_time timestamptz NOT NULL,
    disable_time timestamptz
);
CREATE INDEX ix_service_account_tenant_id ON service_account (tenant_id, id);
CREATE TABLE signing_key (
    kid text NOT NULL PRIMARY KEY,
    public bytea NOT NULL CHECK (length(public) = 32),
    sealed bytea NOT NULL,
    sign_time timestamptz NOT NULL
);
CREATE TABLE guard_version (
    single boolean NOT NULL DEFAULT true PRIMARY KEY,
    version bigint NOT NULL,
    CONSTRAINT ck_guard_version_single CHECK (single)
);
INSERT INTO guard_version (version) VALUES (1);
CREATE TABLE guard_change (
    version bigint NOT NULL PRIMARY KEY,
    noun text NOT NULL,
    about text NOT NULL,
    changed_tenant uuid,
    change_time timestamptz NOT NULL
);
CREATE INDEX ix_guard_change_change_time ON guard_change (change_time)
"""
#: Deferred, so that the one row which orders all changes is locked while committing and no longer.
_FUNCTION = """
CREATE FUNCTION note_guard_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    changed jsonb := to_jsonb(NEW);
    next_version bigint;
BEGIN
    UPDATE guard_version SET version = version + 1 RETURNING version INTO next_version;
    INSERT INTO guard_change (version, noun, about, changed_tenant, change_time)
    VALUES (next_version, TG_ARGV[0], changed ->> TG_ARGV[1], (changed ->> 'tenant_id')::uuid, now());
    RETURN NULL;
END $$"""
#: Table, what its changes are, noun, column that says what changed.
_FOLLOWED = (
    (
        "api_key",
        "INSERT OR UPDATE OF roles, project, scopes, salt, digest, previous_digest, expire_time, revoke_time",
        "key",
        "id",
    ),
    ("tenant", "INSERT OR UPDATE", "tenant", "tenant_id"),
    ("revoked_subject", "INSERT OR UPDATE", "revoked", "subject"),
    ("signing_key", "INSERT", "signing_key", "kid"),
)


def upgrade(op: Operations) -> None:
    """Makes tables, columns and triggers."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, "service_account", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    untenanted_table(
        op,
        "signing_key",
        reason="keys of the installation, their private halves wrapped with the key-encryption key",
        app=("SELECT", "INSERT", "DELETE"),
        maintenance=("SELECT", "INSERT", "UPDATE"),
    )
    untenanted_table(op, "guard_version", reason="one number for the installation", maintenance=("SELECT",))
    untenanted_table(
        op,
        "guard_change",
        reason="names what changed for any tenant, for the feed of the other services; the app role cannot read it",
        app=(),
        maintenance=("SELECT", "DELETE"),
    )
    op.execute(_FUNCTION)
    for table, event, noun, about in _FOLLOWED:
        op.execute(
            f"CREATE CONSTRAINT TRIGGER guard_change AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW EXECUTE FUNCTION note_guard_change('{noun}', '{about}')"
        )


def downgrade(op: Operations) -> None:
    """Drops them; service accounts end."""
    for table, *_ in _FOLLOWED:
        op.execute(f"DROP TRIGGER guard_change ON {table}")
    op.execute("DROP FUNCTION note_guard_change()")
    for table in ("guard_change", "guard_version", "signing_key", "service_account"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX ix_api_key_service_account_id")
    for column in (
        "scopes",
        "service_account_id",
        "last_use_time",
        "rotate_time",
        "previous_salt",
        "previous_digest",
        "previous_expire_time",
    ):
        op.execute(f"ALTER TABLE api_key DROP COLUMN {column}")
    op.execute("ALTER TABLE tenant DROP COLUMN state")
