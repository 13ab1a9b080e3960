"""The tables of cost, as its queries see them. The migrations make them."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.outbox import outbox_table
from services.meshkit.sql.request_ids import request_id_table
from services.meshkit.sql.rls import UNTENANTED

METADATA: Final = MetaData()

#: A run has one budget.
UX_BUDGET_RUN: Final = "ux_budget_run"
#: A node that stands beside calls has its name alone, until it is removed.
UX_BUDGET_NODE: Final = "ux_budget_node"
#: What budgets count besides money.
GAUGES: Final = ("tokens", "calls", "wall_ms")
#: No transaction may leave more spent and held than limit and overrun allow.
CK_BUDGET_LIMIT: Final = "ck_budget_limit"
#: Sums of charges whose price is unknown.
UNPRICED: Final = ("unpriced_event_count", "unpriced_nano_usd")
#: A request makes one hold.
UQ_HOLD_REQUEST: Final = "uq_hold_request"
_COUNTED: Final = ("spent", "held", "overrun")
_FOR_ALL: Final = UNTENANTED + "prices are the same for all tenants"


def _time(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _gauge(name: str) -> list[Column[int]]:
    counted = (Column(f"{part}_{name}", BigInteger, nullable=False, server_default="0") for part in _COUNTED)
    return [Column(f"limit_{name}", BigInteger), *counted]


def _gauge_checks(name: str) -> list[CheckConstraint]:
    kept = f"limit_{name} IS NULL OR mode = 2 OR spent_{name} + held_{name} <= limit_{name} + overrun_{name}"
    positive = " AND ".join(f"{part}_{name} >= 0" for part in _COUNTED)
    return [
        CheckConstraint(kept, name=f"{CK_BUDGET_LIMIT}_{name}"),
        CheckConstraint(positive, name=f"ck_budget_{name}_not_negative"),
    ]


BUDGET: Final = Table(
    "budget",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("scope", SmallInteger, nullable=False),
    Column("run_id", Text),
    _count("limit_nano_usd"),
    _count("spent_nano_usd"),
    _count("held_nano_usd"),
    _count("overrun_nano_usd"),
    Column("exhausted", Boolean, nullable=False),
    _time("created_time"),
    # Of a project, an agent or a step; empty for others.
    Column("name", Text, nullable=False, server_default=""),
    # Of the run, empty for one of none; NULL for other budgets, and where it is not known.
    Column("project", Text),
    Column("mode", SmallInteger, nullable=False, server_default="1"),
    Column("warn_at", SmallInteger, nullable=False, server_default="80"),
    Column("period", SmallInteger, nullable=False, server_default="0"),
    Column("zone", Text, nullable=False, server_default="UTC"),
    # When the period ends that is counted.
    _time("turn_time", nullable=True),
    # From when on charges are in what is spent; NULL: not known.
    _time("counted_from", nullable=True),
    # In a tenant's own budget: what the operator lets the tenant spend (0: no quota), and what the tenant set beside.
    Column("quota_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("own_limit_nano_usd", BigInteger),
    Column("own_mode", SmallInteger),
    Column("own_period", SmallInteger),
    Column("own_zone", Text),
    Column("warned", SmallInteger, nullable=False, server_default="0"),
    _time("degraded_until", nullable=True),
    Column("removed", Boolean, nullable=False, server_default="false"),
    # In a tenant's own budget: grows with each node that is made or removed.
    Column("tree", BigInteger, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    *(column for gauge in GAUGES for column in _gauge(gauge)),
    CheckConstraint(
        "mode = 2 OR spent_nano_usd + held_nano_usd <= limit_nano_usd + overrun_nano_usd", name=CK_BUDGET_LIMIT
    ),
    *(check for gauge in GAUGES for check in _gauge_checks(gauge)),
    CheckConstraint(
        "limit_nano_usd >= 0 AND spent_nano_usd >= 0 AND held_nano_usd >= 0 AND overrun_nano_usd >= 0",
        name="ck_budget_not_negative",
    ),
    Index(UX_BUDGET_RUN, "tenant_id", "run_id", unique=True, postgresql_where=Column("run_id").isnot(None)),
    Index(
        UX_BUDGET_NODE,
        "tenant_id",
        "scope",
        "name",
        unique=True,
        postgresql_where=text("name <> '' AND NOT removed"),
    ),
    Index("ix_budget_removed", "tenant_id", "scope", "name", postgresql_where=text("removed")),
    Index("ix_budget_page", "tenant_id", "created_time", "id"),
    Index("ix_budget_quota", "tenant_id", postgresql_where=text("quota_nano_usd > 0")),
)

HOLD: Final = Table(
    "hold",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("request_id", Uuid, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("budget_ids", ARRAY(Uuid), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("attempt_group", Integer, nullable=False),
    Column("call_index", Integer, nullable=False),
    Column("agent_name", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("project", Text, nullable=False),
    # Token counts in the order of the classes.
    Column("bound", ARRAY(BigInteger), nullable=False),
    Column("usage", ARRAY(BigInteger)),
    _count("amount_nano_usd"),
    _count("charged_nano_usd"),
    Column("price_digest", LargeBinary),
    _time("expire_time"),
    _time("created_time"),
    _time("dispatched_time", nullable=True),
    _time("charged_time", nullable=True),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    # False for those of the first release, which held money only.
    Column("counts", Boolean, nullable=False, server_default="false"),
    # What tokens without a price are charged at; null where the price is known.
    Column("ceiling_nano_usd_per_million", BigInteger),
    CheckConstraint("amount_nano_usd >= 0 AND charged_nano_usd >= 0", name="ck_hold_not_negative"),
    UniqueConstraint("tenant_id", "request_id", name=UQ_HOLD_REQUEST),
    Index("ix_hold_due", "expire_time", postgresql_where=Column("state").in_((1, 2))),
    # Finds which prices the charges of a tenant were made with.
    Index(
        "ix_hold_priced",
        "tenant_id",
        "price_digest",
        "model",
        "created_time",
        postgresql_where=text("state IN (3, 5) AND price_digest IS NOT NULL"),
    ),
    Index("ix_hold_unpriced", "tenant_id", postgresql_where=Column("ceiling_nano_usd_per_million").isnot(None)),
)

COST_EVENT: Final = Table(
    "cost_event",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("hold_id", Uuid, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("attempt_group", Integer, nullable=False),
    Column("call_index", Integer, nullable=False),
    Column("agent_name", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("project", Text, nullable=False),
    *(_count(f"{name}_tokens") for name in USAGE_CLASSES),
    _count("cost_nano_usd"),
    Column("assumed", Boolean, nullable=False),
    # True when it takes an assumed entry back; its numbers are negative.
    Column("reversal", Boolean, nullable=False),
    Column("price_digest", LargeBinary),
    _time("created_time"),
    # The transaction that wrote it, numbered by the database.
    Column("ledger_xid", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
    # Why an entry was written that no call made; empty for those of calls.
    Column("note", Text, nullable=False, server_default=""),
    Index("ix_cost_event_ledger", "ledger_xid", "tenant_id"),
    Index("ix_cost_event_page", "tenant_id", "created_time", "id"),
    Index("ix_cost_event_run", "tenant_id", "run_id", "created_time", "id"),
    # For readers of one project, which may have few of a tenant's many entries.
    Index(
        "ix_cost_event_project", "tenant_id", "project", "created_time", "id", postgresql_where=text("project <> ''")
    ),
    # Finds what was priced anew, which is rare.
    Index("ix_cost_event_noted", "tenant_id", "created_time", postgresql_where=text("note <> ''")),
    # Finds who spent in the last hour, over all tenants.
    Index("ix_cost_event_time", "created_time", postgresql_using="brin"),
)


def _sums() -> list[Column[int]]:
    names = ("event_count", *(f"{name}_tokens" for name in USAGE_CLASSES), "cost_nano_usd", "assumed_nano_usd")
    # Of charges whose price is unknown; none in the sums of the release before.
    unpriced = (Column(name, BigInteger, nullable=False, server_default="0") for name in UNPRICED)
    return [*(_count(name) for name in names), *unpriced]


def _sums_by(table: str, step: str) -> Table:
    return Table(
        table,
        METADATA,
        Column("tenant_id", Uuid, nullable=False),
        _time(step),
        # Digest of the names and the kind.
        Column("group_key", LargeBinary, nullable=False),
        Column("project", Text, nullable=False),
        Column("agent_name", Text, nullable=False),
        Column("provider", Text, nullable=False),
        Column("model", Text, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        *_sums(),
        PrimaryKeyConstraint("tenant_id", step, "group_key", name=f"pk_{table}"),
    )


#: What tenants have done with calls whose price is unknown; no row: what the settings say.
UNKNOWN_PRICE: Final = Table(
    "unknown_price",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("rule", SmallInteger, nullable=False),
    # 0: the lowest that the operator allows.
    _count("ceiling_nano_usd_per_million"),
    CheckConstraint("ceiling_nano_usd_per_million >= 0", name="ck_unknown_price_not_negative"),
)

#: The ledger added up by the hour and by the day of UTC.
COST_HOUR: Final = _sums_by("cost_hour", "hour")
COST_DAY: Final = _sums_by("cost_day", "day")
COST_RUN_HOUR: Final = Table(
    "cost_run_hour",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    _time("hour"),
    Column("run_id", Text, nullable=False),
    *_sums(),
    PrimaryKeyConstraint("tenant_id", "hour", "run_id", name="pk_cost_run_hour"),
)
#: How models were used on days that are over.
COST_USE_DAY: Final = Table(
    "cost_use_day",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    _time("day"),
    # Digest of the kind and the names.
    Column("use_key", LargeBinary, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("agent_name", Text, nullable=False),
    *(_count(name) for name in (*(f"{name}_tokens" for name in USAGE_CLASSES), "cost_nano_usd", "calls", "warm_calls")),
    # Four numbers for each shape of calls, see `CallShape`.
    Column("shapes", ARRAY(BigInteger), nullable=False),
    PrimaryKeyConstraint("tenant_id", "day", "use_key", name="pk_cost_use_day"),
)
#: How far the sums reach. One row.
ROLLUP_MARK: Final = Table(
    "rollup_mark",
    METADATA,
    Column("id", SmallInteger, primary_key=True),
    # Every entry whose transaction is before is in the sums, and no other.
    Column("ledger_xid", BigInteger, nullable=False),
    # Entries of earlier times may be gone.
    _time("kept_from", nullable=True),
    # Holds of earlier times may be gone; null: none is.
    _time("holds_from", nullable=True),
    comment=UNTENANTED + "one place in the ledger for all tenants",
)

PRICE: Final = Table(
    "price",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("aliases", ARRAY(Text), nullable=False),
    _time("start_time"),
    _time("end_time", nullable=True),
    Column("source", Text, nullable=False),
    # True when an operator gave it.
    Column("imported", Boolean, nullable=False, server_default="false"),
    comment=_FOR_ALL,
)

PRICE_TIER: Final = Table(
    "price_tier",
    METADATA,
    Column("digest", LargeBinary, ForeignKey("price.digest"), nullable=False),
    _count("min_prompt_tokens"),
    *(_count(f"{name}_nano_usd_per_million") for name in USAGE_CLASSES),
    PrimaryKeyConstraint("digest", "min_prompt_tokens", name="pk_price_tier"),
    comment=_FOR_ALL,
)

PRICE_EDITION: Final = Table(
    "price_edition",
    METADATA,
    Column("id", SmallInteger, primary_key=True),
    # Of the newest list that a release has shipped; 0: none has said.
    Column("edition", Integer, nullable=False),
    comment=_FOR_ALL,
)

#: Who may be behind an alert on spend.
CAUSES: Final = ("run", "agent", "model", "project")
#: A tenant has one open alert.
UX_SPEND_ALERT_OPEN: Final = "ux_spend_alert_open"

SPEND_ALERT: Final = Table(
    "spend_alert",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("state", SmallInteger, nullable=False),
    _time("opened_time"),
    _time("closed_time", nullable=True),
    _time("hour_time"),
    _count("spent_nano_usd"),
    _count("expected_nano_usd"),
    _count("high_nano_usd"),
    Column("basis", SmallInteger, nullable=False),
    *(
        column
        for cause in CAUSES
        for column in (
            Column(f"{cause}_name", Text, nullable=False),
            _count(f"{cause}_spent_nano_usd"),
            _count(f"{cause}_usual_nano_usd"),
        )
    ),
    Column("degraded_ids", ARRAY(Uuid), nullable=False),
    _count("revision"),
    Index(UX_SPEND_ALERT_OPEN, "tenant_id", unique=True, postgresql_where=Column("state") == 1),
    Index("ix_spend_alert_page", "tenant_id", "opened_time", "id"),
)

#: What people should know about budgets.
BUDGET_ALERT: Final = Table(
    "budget_alert",
    METADATA,
    # Also that of the message which told of it, so it ascends with time.
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("budget_id", Uuid, nullable=False),
    _time("created_time"),
    # The message itself, with the budget as it was then.
    Column("body", LargeBinary, nullable=False),
    Index("ix_budget_alert_page", "tenant_id", "created_time", "id"),
    Index("ix_budget_alert_budget", "tenant_id", "budget_id", "created_time", "id"),
)

#: Budgets that a spike degrades, and for how long.
SPIKE_RULE: Final = Table(
    "spike_rule",
    METADATA,
    Column("budget_id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("degrade_seconds", Integer, nullable=False),
    CheckConstraint("degrade_seconds > 0", name="ck_spike_rule_positive"),
)

OUTBOX: Final = outbox_table(METADATA)
audit_entry_tables(METADATA)

REQUEST_ID: Final = request_id_table(METADATA)
