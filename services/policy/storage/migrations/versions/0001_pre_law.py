"""Makes bundles, law and violations."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table, untenanted_table

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Makes the tables and their policies."""
    _make_bundles(op)
    _make_violations(op)


def downgrade(op: Operations) -> None:
    """Drops everything."""
    op.execute("DROP TABLE violation_head, violation, law_change, law, bundle")


def _make_bundles(op: Operations) -> None:
    op.execute("""
        CREATE TABLE bundle (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            name text NOT NULL,
            version text NOT NULL,
            major integer NOT NULL,
            minor integer NOT NULL,
            patch integer NOT NULL,
            digest text NOT NULL,
            source text NOT NULL,
            rule_count integer NOT NULL,
            created_by text NOT NULL,
            created_time timestamptz NOT NULL,
            CONSTRAINT uq_bundle_version UNIQUE (tenant_id, name, version),
            CONSTRAINT ck_bundle_not_empty CHECK (rule_count > 0)
        )""")
    op.execute("CREATE INDEX ix_bundle_page ON bundle (tenant_id, name, major, minor, patch)")
    op.execute("""
        CREATE TABLE law (
            tenant_id uuid PRIMARY KEY,
            name text NOT NULL,
            version text NOT NULL,
            change bigint NOT NULL,
            activated_by text NOT NULL,
            activated_time timestamptz NOT NULL
        )""")
    op.execute("CREATE INDEX ix_law_change ON law (change)")
    op.execute("""
        CREATE TABLE law_change (
            single boolean PRIMARY KEY DEFAULT true,
            change bigint NOT NULL,
            CONSTRAINT ck_law_change_single CHECK (single)
        )""")
    op.execute("INSERT INTO law_change (change) VALUES (0)")
    # A version never changes, so nothing may update it.
    tenant_table(op, "bundle", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "law", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    untenanted_table(
        op,
        "law_change",
        reason="counts activations over all tenants",
        app=("SELECT", "UPDATE"),
        maintenance=("SELECT",),
    )


def _make_violations(op: Operations) -> None:
    op.execute("""
        CREATE TABLE violation (
            tenant_id uuid NOT NULL,
            sequence bigint NOT NULL,
            id uuid NOT NULL,
            verdict_id text NOT NULL,
            rule text NOT NULL,
            severity smallint NOT NULL,
            action smallint NOT NULL,
            stage smallint NOT NULL,
            operation smallint NOT NULL,
            rationale text NOT NULL,
            run_id text NOT NULL,
            path text NOT NULL,
            agent_name text NOT NULL,
            bundle text NOT NULL,
            created_time timestamptz NOT NULL,
            CONSTRAINT pk_violation PRIMARY KEY (tenant_id, sequence)
        )""")
    op.execute("CREATE INDEX ix_violation_run ON violation (tenant_id, run_id, sequence) WHERE run_id <> ''")
    op.execute(
        "CREATE TABLE violation_head (tenant_id uuid PRIMARY KEY, sequence bigint NOT NULL) WITH (fillfactor = 50)"
    )
    # Violations are only ever added.
    tenant_table(op, "violation", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "violation_head", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
