"""Makes budgets, holds, the ledger, prices and the outbox."""

from alembic.operations import Operations

from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.outbox import create_outbox
from services.meshkit.sql.rls import tenant_table, untenanted_table

revision = "0001"
down_revision = None

_PURPOSE = """
    kind smallint NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    run_id text NOT NULL,
    path text NOT NULL,
    attempt_group integer NOT NULL,
    call_index integer NOT NULL,
    agent_name text NOT NULL,
    agent_version text NOT NULL,
    project text NOT NULL"""
_TOKENS = ", ".join(f"{name}_tokens bigint NOT NULL" for name in USAGE_CLASSES)
_RATES = ", ".join(f"{name}_nano_usd_per_million bigint NOT NULL" for name in USAGE_CLASSES)


def upgrade(op: Operations) -> None:
    _make_budgets(op)
    _make_holds(op)
    _make_ledger(op)
    _make_prices(op)
    create_outbox(op)


def downgrade(op: Operations) -> None:
    op.execute("DROP TABLE outbox, price_tier, price, cost_event, hold, budget")


def _make_budgets(op: Operations) -> None:
    op.execute("""
        CREATE TABLE budget (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            scope smallint NOT NULL,
            run_id text,
            limit_nano_usd bigint NOT NULL,
            spent_nano_usd bigint NOT NULL,
            held_nano_usd bigint NOT NULL,
            overrun_nano_usd bigint NOT NULL,
            exhausted boolean NOT NULL,
            created_time timestamptz NOT NULL,
            CONSTRAINT ck_budget_limit CHECK (spent_nano_usd + held_nano_usd <= limit_nano_usd + overrun_nano_usd),
            CONSTRAINT ck_budget_not_negative CHECK (
                limit_nano_usd >= 0 AND spent_nano_usd >= 0 AND held_nano_usd >= 0 AND overrun_nano_usd >= 0)
        ) WITH (fillfactor = 50)""")
    op.execute("CREATE UNIQUE INDEX ux_budget_run ON budget (tenant_id, run_id) WHERE run_id IS NOT NULL")
    op.execute("CREATE INDEX ix_budget_page ON budget (tenant_id, created_time, id)")
    tenant_table(op, "budget", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE"))


def _make_holds(op: Operations) -> None:
    op.execute(f"""
        CREATE TABLE hold (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            request_id uuid NOT NULL,
            request_digest bytea NOT NULL,
            state smallint NOT NULL,
            budget_ids uuid[] NOT NULL,{_PURPOSE},
            bound bigint[] NOT NULL,
            usage bigint[],
            amount_nano_usd bigint NOT NULL,
            charged_nano_usd bigint NOT NULL,
            price_digest bytea,
            expire_time timestamptz NOT NULL,
            created_time timestamptz NOT NULL,
            CONSTRAINT ck_hold_not_negative CHECK (amount_nano_usd >= 0 AND charged_nano_usd >= 0),
            CONSTRAINT uq_hold_request UNIQUE (tenant_id, request_id)
        )""")
    op.execute("CREATE INDEX ix_hold_due ON hold (expire_time) WHERE state IN (1, 2)")
    tenant_table(op, "hold", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE"))


def _make_ledger(op: Operations) -> None:
    op.execute(f"""
        CREATE TABLE cost_event (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            hold_id uuid NOT NULL,{_PURPOSE},
            {_TOKENS},
            cost_nano_usd bigint NOT NULL,
            assumed boolean NOT NULL,
            reversal boolean NOT NULL,
            price_digest bytea,
            created_time timestamptz NOT NULL
        )""")
    op.execute("CREATE INDEX ix_cost_event_page ON cost_event (tenant_id, created_time, id)")
    op.execute("CREATE INDEX ix_cost_event_run ON cost_event (tenant_id, run_id, created_time, id)")
    # Entries are only ever added.
    tenant_table(op, "cost_event", app=("SELECT", "INSERT"), maintenance=("SELECT", "INSERT"))


def _make_prices(op: Operations) -> None:
    op.execute("""
        CREATE TABLE price (
            digest bytea PRIMARY KEY,
            provider text NOT NULL,
            model text NOT NULL,
            aliases text[] NOT NULL,
            start_time timestamptz NOT NULL,
            end_time timestamptz,
            source text NOT NULL
        )""")
    op.execute(f"""
        CREATE TABLE price_tier (
            digest bytea NOT NULL REFERENCES price (digest),
            min_prompt_tokens bigint NOT NULL,
            {_RATES},
            CONSTRAINT pk_price_tier PRIMARY KEY (digest, min_prompt_tokens)
        )""")
    for table in ("price", "price_tier"):
        untenanted_table(
            op, table, reason="prices are the same for all tenants", maintenance=("SELECT", "INSERT", "UPDATE")
        )
