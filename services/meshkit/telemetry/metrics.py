"""The instruments of the process, one per name, and the page that shows them.

A process has one page, so the instruments live at module level, as prometheus-client means them to.
"""

import re
from collections.abc import Callable, Sized
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.meshkit.telemetry import names

_RPC_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MODEL_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
#: The 26 digits of a TypeID, and a UUID.
_LOOKS_LIKE_AN_ID: Final = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}|[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_LAG_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

RPC_DURATION = Histogram(
    names.RPC_SERVER_DURATION_SECONDS, "Time to answer an RPC.", ["method", "code"], buckets=_RPC_BUCKETS
)
RPC_IN_FLIGHT = Gauge(names.RPC_SERVER_IN_FLIGHT, "RPCs being worked on.", ["service"])
INCIDENTS = Counter(names.INCIDENTS_TOTAL, "Errors that were nobody's plan.", ["method"])
INFERENCE_LATENCY = Histogram(
    names.INFERENCE_LATENCY_SECONDS,
    "Time from a prompt to the end of its answer.",
    ["provider", "model", "outcome"],
    buckets=_MODEL_BUCKETS,
)
MODEL_BREAKER_CHANGES = Counter(
    names.MODEL_BREAKER_CHANGES_TOTAL, "Breakers of models that changed, by the state they came to.", ["state"]
)
MODEL_BREAKERS = Gauge(names.MODEL_BREAKERS, "Models by the state of their breaker.", ["state"])
MODEL_HEDGES = Counter(names.MODEL_HEDGES_TOTAL, "Models that were asked beside another that was silent.")
MODEL_BATCHES = Counter(names.MODEL_BATCHES_TOTAL, "Batches of prompts by the state they came to.", ["state"])
MODEL_BATCH_ITEMS = Counter(names.MODEL_BATCH_ITEMS_TOTAL, "Prompts of batches by what became of them.", ["state"])
MODEL_BATCH_SETBACKS = Counter(
    names.MODEL_BATCH_SETBACKS_TOTAL, "Steps with a batch that something stood in the way of.", ["kind"]
)
MODELS_UNREADABLE = Gauge(names.MODELS_UNREADABLE, "Names of tenants' models and routes that cannot be read here.")
MODEL_SEAT_WAIT = Histogram(
    names.MODEL_SEAT_WAIT_SECONDS, "Time that calls of models waited for a seat.", ["kind"], buckets=_RPC_BUCKETS
)
ANSWERS_LOOKED_UP = Counter(
    names.ANSWERS_LOOKED_UP_TOTAL, "Calls of models that might have been answered from memory.", ["outcome"]
)
TOKENS_CONSUMED = Counter(names.TOKENS_CONSUMED_TOTAL, "Tokens used.", ["provider", "model", "token_class"])
VIOLATIONS = Counter(names.VIOLATIONS_TOTAL, "Violations of rules.", ["severity", "rule"])
COST = Counter(names.COST_NANO_USD_TOTAL, "Money spent, in billionths of a US dollar.", ["provider", "model"])
HOLDS = Counter(names.HOLDS_TOTAL, "Holds by the state they came to.", ["state"])
HOLD_WAIT = Histogram(
    names.HOLD_WAIT_SECONDS, "Time that calls waited for money which others held.", ["outcome"], buckets=_MODEL_BUCKETS
)
SPEND_REFUSED = Counter(names.SPEND_REFUSED_TOTAL, "Spending that was refused.", ["reason"])
SPEND_ALERTS = Counter(names.SPEND_ALERTS_TOTAL, "Alerts on unusual spend by the state they came to.", ["state"])
BUDGET_ALERTS = Counter(names.BUDGET_ALERTS_TOTAL, "Budgets by the level they came to.", ["cause"])
COST_EVENTS_ROLLED_UP = Counter(names.COST_EVENTS_ROLLED_UP_TOTAL, "Entries of the ledger that were added up.")
COST_EVENTS_FORGOTTEN = Counter(names.COST_EVENTS_FORGOTTEN_TOTAL, "Old entries of the ledger that were removed.")
COST_ROUNDS_FAILED = Counter(names.COST_ROUNDS_FAILED_TOTAL, "Rounds of cost's background work that failed.", ["work"])
HOLDS_FORGOTTEN = Counter(names.HOLDS_FORGOTTEN_TOTAL, "Holds of calls that ended long ago, which were removed.")
SESSION_ROUNDS = Histogram(
    names.SESSION_ROUNDS, "Rounds of a finished session.", ["mode", "converged"], buckets=(1, 2, 3, 5, 8, 13, 21, 50)
)
TOOL_INVOCATIONS = Counter(names.TOOL_INVOCATIONS_TOTAL, "Tool calls by how they ended.", ["tool", "status"])
MEMORIES_EMBEDDED = Counter(names.MEMORIES_EMBEDDED_TOTAL, "Memories by how far their vectors came.", ["outcome"])
MEMORY_RECALL_DURATION = Histogram(
    names.MEMORY_RECALL_DURATION_SECONDS, "Time of a part of a recall.", ["part"], buckets=_RPC_BUCKETS
)
MEMORY_SEMANTIC_SKIPPED = Counter(
    names.MEMORY_SEMANTIC_SKIPPED_TOTAL, "Recalls that went without similarity.", ["reason"]
)
STEP_DURATION = Histogram(
    names.STEP_DURATION_SECONDS, "Time of a step of a run.", ["program", "outcome"], buckets=_MODEL_BUCKETS
)
TICK_COMMIT = Histogram(
    names.TICK_COMMIT_SECONDS, "Time to record what was decided, in one commit.", buckets=_RPC_BUCKETS
)
SHARDS_HELD = Gauge(names.SHARDS_HELD, "Shards of runs whose lease is held.")
SHARDS_LOST = Counter(names.SHARDS_LOST_TOTAL, "Shards of runs whose lease was lost.")
RUNS_SET_ASIDE = Counter(names.RUNS_SET_ASIDE_TOTAL, "Runs taken out of memory to be taken up again.")
RUNS_PARKED = Counter(names.RUNS_PARKED_TOTAL, "Runs that cannot go on until somebody acts.", ["reason"])
STEP_OUTCOMES = Counter(names.STEP_OUTCOMES_TOTAL, "What workers said of steps.", ["outcome"])
RUNS_ARCHIVED = Counter(names.RUNS_ARCHIVED_TOTAL, "Runs whose facts were moved to the archive.")
RUNS_DELETED = Counter(names.RUNS_DELETED_TOTAL, "Runs that were deleted by the rule of their tenant.")
RUN_ESTIMATES = Counter(names.RUN_ESTIMATES_TOTAL, "Runs whose cost was held against its 90 % interval.", ["outcome"])
JOURNAL_BLOBS_SWEPT = Counter(names.JOURNAL_BLOBS_SWEPT_TOTAL, "Objects that no journal named and that were deleted.")
JOURNAL_KEEPING_FAILED = Counter(
    names.JOURNAL_KEEPING_FAILED_TOTAL, "Rounds of the journal's keeping that failed.", ["work"]
)
LOOP_LAG = Histogram(
    names.LOOP_LAG_SECONDS, "Time by which the event loop was late.", ["service"], buckets=_RPC_BUCKETS
)
CLOCK_AHEAD = Gauge(names.CLOCK_AHEAD_SECONDS, "Seconds that a machine is ahead of its database.", ["service"])
QUEUE_ITEMS = Gauge(names.QUEUE_ITEMS, "Things waiting in a bounded queue.", ["queue"])
QUEUE_REFUSED = Counter(names.QUEUE_REFUSED_TOTAL, "Things refused by a full queue.", ["queue"])
CACHE_ITEMS = Gauge(names.CACHE_ITEMS, "Things kept in a bounded map.", ["cache"])
CACHE_BYTES = Gauge(names.CACHE_BYTES, "Bytes kept in a bounded map.", ["cache"])
GUARD_FEED_AGE = Gauge(
    names.GUARD_FEED_AGE_SECONDS, "Seconds since the gateway's last word about revocations and tenants.", ["service"]
)
REFUSALS = Counter(names.REFUSALS_TOTAL, "Calls that were refused.", ["service", "code", "reason"])
UNKNOWN_SIGNING_KEYS = Counter(names.UNKNOWN_SIGNING_KEYS_TOTAL, "Tokens signed with a key that is not in the key set.")
SIGNING_KEY_SINCE = Gauge(names.SIGNING_KEY_SINCE_SECONDS, "When the key that signs access tokens began to, Unix time.")
ISSUER_KEY_FETCHES = Counter(names.ISSUER_KEY_FETCHES_TOTAL, "Wishes for the keys of an issuer.", ["outcome"])
REVOCATION_LAG = Histogram(
    names.REVOCATION_LAG_SECONDS, "Time from a revocation to its arrival.", ["service"], buckets=_LAG_BUCKETS
)
RATE_DECISIONS = Counter(names.RATE_DECISIONS_TOTAL, "Calls by what their rate limit said.", ["service", "outcome"])
API_KEYS_REFUSED = Counter(names.API_KEYS_REFUSED_TOTAL, "API keys that let nobody in at the edge.", ["why"])
RATE_LEASES_AWAY = Gauge(names.RATE_LEASES_AWAY, "1 while limits are counted without the gateway.", ["service"])
SEATS_TAKEN = Gauge(names.SEATS_TAKEN, "Calls in progress.", ["service", "kind"])
SEATS_REFUSED = Counter(names.SEATS_REFUSED_TOTAL, "Calls beyond their tenant's share.", ["service", "kind"])
TLS_CERTIFICATE_EXPIRES = Gauge(
    names.TLS_CERTIFICATE_EXPIRES_SECONDS, "When the certificate shown to neighbours expires, Unix time.", ["service"]
)
BATCH_ITEMS = Histogram(names.BATCH_ITEMS, "Items that went together.", ["queue"], buckets=_BATCH_BUCKETS)


def show_size(cache: str, kept: Sized, *, size_bytes: Callable[[], int] | None = None) -> None:
    """Has the page show what a bounded map holds, counted whenever the page is asked for.

    Args:
        cache: label, `service.what`. A map made later takes the place of one with the same label.
        size_bytes: gives the bytes, for a map that is bounded in bytes.
    """
    CACHE_ITEMS.labels(cache).set_function(kept.__len__)
    if size_bytes is not None:
        CACHE_BYTES.labels(cache).set_function(size_bytes)


AUDIT_ENTRIES = Counter(names.AUDIT_ENTRIES_TOTAL, "Audit entries that were chained.", ["service"])
AUDIT_REFUSALS = Counter(names.AUDIT_REFUSALS_TOTAL, "Refused calls, by the fate of their entry.", ["service", "fate"])
AUDIT_GAPS = Gauge(names.AUDIT_GAPS, "Places at which audit entries are missing and nobody knows why.", ["service"])
AUDIT_BREAKS = Counter(names.AUDIT_BREAKS_TOTAL, "Places at which audit entries are missing.", ["service", "kind"])
AUDIT_LAG = Histogram(
    names.AUDIT_LAG_SECONDS, "Time from writing an audit entry to chaining it.", ["service"], buckets=_LAG_BUCKETS
)
AUDIT_SIGNED = Gauge(names.AUDIT_SIGNED_SECONDS, "When every audit trail was last seen signed to its end, Unix time.")
AUDIT_FEED_AWAY = Gauge(names.AUDIT_FEED_AWAY, "1 while a service's audit entries do not arrive.", ["service"])
AUDIT_HEADS = Counter(names.AUDIT_HEADS_TOTAL, "Heads of audit trails that were signed.")
AUDIT_CONTRADICTIONS = Gauge(names.AUDIT_CONTRADICTIONS, "Tenants whose audit trail contradicts what was signed.")
DATA_KEYS_REWRAPPED = Counter(names.DATA_KEYS_REWRAPPED_TOTAL, "Data keys that were wrapped anew.", ["service"])
WAL_ARCHIVE_LATE = Gauge(names.WAL_ARCHIVE_LATE_SECONDS, "Seconds for which the log has not reached its archive.")
SPANS = Counter(names.SPANS_TOTAL, "Spans by what became of them.", ["fate"])
DATA_KEYS_WAITING = Gauge(names.DATA_KEYS_WAITING, "Data keys that an old key-encryption key wraps.", ["service"])


class BoundedLabel:
    """Keeps the values of a label few: the first `most` that come are kept, the rest becomes `other`.

    For values that users choose, such as names of models, rules and tools. One that looks like an id is `other`, too.
    """

    def __init__(self, *, most: int = 100) -> None:
        self._most = most
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Gives the label value to use for `value`."""
        if value in self._seen:
            return value
        if len(self._seen) >= self._most or _LOOKS_LIKE_AN_ID.search(value):
            return "other"
        self._seen.add(value)
        return value
