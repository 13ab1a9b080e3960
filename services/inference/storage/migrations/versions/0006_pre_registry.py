"""Deployments, their versions and the routes of tenants, and the order of changes that replicas follow."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table, untenanted_table

revision = "0006"
down_revision = "0005"

_TABLES = """
CREATE TABLE model_deployment (
    tenant_id uuid NOT NULL,
    deployment_id uuid NOT NULL,
    name text NOT NULL,
    task text NOT NULL CONSTRAINT ck_model_deployment_task CHECK (task IN ('generate', 'embed')),
    created_time timestamptz NOT NULL,
    retired_time timestamptz,
    CONSTRAINT pk_model_deployment PRIMARY KEY (tenant_id, deployment_id)
);
CREATE UNIQUE INDEX uq_model_deployment_name ON model_deployment (tenant_id, name) WHERE retired_time IS NULL;
CREATE TABLE model_version (
    tenant_id uuid NOT NULL,
    deployment_id uuid NOT NULL,
    version integer NOT NULL CONSTRAINT ck_model_version_number CHECK (version > 0),
    spec jsonb NOT NULL,
    secret bytea,
    state text NOT NULL
        CONSTRAINT ck_model_version_state CHECK (state IN ('checking', 'ready', 'refused', 'retired')),
    failures text[] NOT NULL DEFAULT '{}',
    created_time timestamptz NOT NULL,
    CONSTRAINT pk_model_version PRIMARY KEY (tenant_id, deployment_id, version)
);
CREATE TABLE model_route (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    spec jsonb NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT pk_model_route PRIMARY KEY (tenant_id, name)
);
CREATE TABLE registry_version (
    single boolean NOT NULL DEFAULT true PRIMARY KEY,
    version bigint NOT NULL,
    CONSTRAINT ck_registry_version_single CHECK (single)
);
INSERT INTO registry_version (version) VALUES (1);
CREATE TABLE registry_change (
    version bigint NOT NULL PRIMARY KEY,
    noun text NOT NULL,
    about text NOT NULL,
    changed_tenant uuid NOT NULL,
    change_time timestamptz NOT NULL
);
CREATE INDEX ix_registry_change_change_time ON registry_change (change_time)
"""
#: Deferred, so that the one row which orders all changes is locked while committing and no longer.
_FUNCTION = """
CREATE FUNCTION note_registry_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    changed jsonb := to_jsonb(COALESCE(NEW, OLD));
    next_version bigint;
BEGIN
    UPDATE registry_version SET version = version + 1 RETURNING version INTO next_version;
    INSERT INTO registry_change (version, noun, about, changed_tenant, change_time)
    VALUES (next_version, TG_ARGV[0], changed ->> TG_ARGV[1], (changed ->> 'tenant_id')::uuid, now());
    RETURN NULL;
END $$"""
#: Table, noun, column that says what changed.
_FOLLOWED = (
    ("model_deployment", "deployment", "deployment_id"),
    ("model_version", "deployment", "deployment_id"),
    ("model_route", "route", "name"),
)


def upgrade(op: Operations) -> None:
    """Makes tables and triggers."""
    run_together(op, _TABLES.split(";"))
    for table in ("model_deployment", "model_version"):
        tenant_table(op, table, app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))
    tenant_table(op, "model_route", maintenance=("SELECT", "DELETE"))
    untenanted_table(op, "registry_version", reason="one number for the installation", maintenance=("SELECT",))
    untenanted_table(
        op,
        "registry_change",
        reason="names what changed for any tenant, for all replicas; the app role cannot read it",
        app=(),
        maintenance=("SELECT", "DELETE"),
    )
    op.execute(_FUNCTION)
    for table, noun, about in _FOLLOWED:
        op.execute(
            f"CREATE CONSTRAINT TRIGGER registry_change AFTER INSERT OR UPDATE OR DELETE ON {table}"
            f" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_registry_change('{noun}', '{about}')"
        )


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP TABLE model_deployment, model_version, model_route, registry_change, registry_version")
    op.execute("DROP FUNCTION note_registry_change()")
