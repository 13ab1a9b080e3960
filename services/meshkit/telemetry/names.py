"""Names of metrics, spans and log fields. The only place where they are spelled.

Units are base units and stand in the name. Labels are few and bounded; no id is ever a label.
"""

from typing import Final

# --- metrics ---------------------------------------------------------------------------------------------------------

#: Time a server took to answer an RPC. Labels: method, code.
RPC_SERVER_DURATION_SECONDS: Final = "comitia_rpc_server_duration_seconds"
#: RPCs that a server is working on. Labels: service.
RPC_SERVER_IN_FLIGHT: Final = "comitia_rpc_server_in_flight"
#: Errors that were nobody's plan, each with an incident id in the log. Labels: method.
INCIDENTS_TOTAL: Final = "comitia_incidents_total"
#: Time from a prompt to the end of its answer. Labels: provider, model, outcome.
INFERENCE_LATENCY_SECONDS: Final = "comitia_inference_latency_seconds"
#: Breakers of models that changed, by the state they came to: closed, open, half_open. Labels: state.
MODEL_BREAKER_CHANGES_TOTAL: Final = "comitia_model_breaker_changes_total"
#: Models whose breaker this replica has in a state: closed, open, half_open. Labels: state.
MODEL_BREAKERS: Final = "comitia_model_breakers"
#: Models that were asked beside another that was silent, because the call wanted that.
MODEL_HEDGES_TOTAL: Final = "comitia_model_hedges_total"
#: Batches of prompts for providers by the state they came to, `accepted` when they were taken. Labels: state.
MODEL_BATCHES_TOTAL: Final = "comitia_model_batches_total"
#: Prompts of batches by what became of them: answered, failed, cancelled, unknown. Labels: state.
MODEL_BATCH_ITEMS_TOTAL: Final = "comitia_model_batch_items_total"
#: Steps with a batch that something stood in the way of, by the kind of error, `internal` if it was nobody's plan.
#: Labels: kind.
MODEL_BATCH_SETBACKS_TOTAL: Final = "comitia_model_batch_setbacks_total"
#: Names of tenants' models and routes that this replica cannot read: another release wrote them.
MODELS_UNREADABLE: Final = "comitia_models_unreadable"
#: Time that calls of models waited for a seat, those that had to, interactive or batch. Labels: kind.
MODEL_SEAT_WAIT_SECONDS: Final = "comitia_model_seat_wait_seconds"
#: Calls of models that might have been answered from memory, by what came of it: hit, miss. Labels: outcome.
ANSWERS_LOOKED_UP_TOTAL: Final = "comitia_answers_looked_up_total"
#: Tokens used, by class. Labels: provider, model, token_class.
TOKENS_CONSUMED_TOTAL: Final = "comitia_tokens_consumed_total"
#: Violations of rules. Labels: severity, rule.
VIOLATIONS_TOTAL: Final = "comitia_violations_total"
#: Money spent, in billionths of a US dollar. Labels: provider, model.
COST_NANO_USD_TOTAL: Final = "comitia_cost_nano_usd_total"
#: Holds by the state they came to. Labels: state.
HOLDS_TOTAL: Final = "comitia_holds_total"
#: Time that calls waited for money which others held, by what they got or why not. Labels: outcome.
HOLD_WAIT_SECONDS: Final = "comitia_hold_wait_seconds"
#: Spending that was refused. Labels: reason.
SPEND_REFUSED_TOTAL: Final = "comitia_spend_refused_total"
#: Alerts on unusual spend by the state they came to: opened, risen, closed. Labels: state.
SPEND_ALERTS_TOTAL: Final = "comitia_spend_alerts_total"
#: Budgets that came to a level of which people are told: warned, exhausted, overrun, degraded. Labels: cause.
BUDGET_ALERTS_TOTAL: Final = "comitia_budget_alerts_total"
#: Entries of the ledger that were added to the sums by hour and by day.
COST_EVENTS_ROLLED_UP_TOTAL: Final = "comitia_cost_events_rolled_up_total"
#: Entries of the ledger that were removed because they are old; their sums stay.
COST_EVENTS_FORGOTTEN_TOTAL: Final = "comitia_cost_events_forgotten_total"
#: Rounds of cost's background work that failed and come again: expiry, roll_up, watch,
#: uses, prices, quotas, old_holds. Labels: work.
COST_ROUNDS_FAILED_TOTAL: Final = "comitia_cost_rounds_failed_total"
#: Holds that were removed because their calls ended long ago.
HOLDS_FORGOTTEN_TOTAL: Final = "comitia_holds_forgotten_total"
#: Rounds that a finished session took. Labels: mode, converged.
SESSION_ROUNDS: Final = "comitia_session_rounds"
#: Tool calls by how they ended. Labels: tool, status.
TOOL_INVOCATIONS_TOTAL: Final = "comitia_tool_invocations_total"
#: Memories by how far their vectors came: placed, recorded, placed_again, failed. Labels: outcome.
MEMORIES_EMBEDDED_TOTAL: Final = "comitia_memories_embedded_total"
#: Time a part of a recall took: ring, embed, search. Labels: part.
MEMORY_RECALL_DURATION_SECONDS: Final = "comitia_memory_recall_duration_seconds"
#: Recalls that went without similarity. Labels: reason.
MEMORY_SEMANTIC_SKIPPED_TOTAL: Final = "comitia_memory_semantic_skipped_total"
#: Time a step of a run took that a program carries out, by that program (`turn`, `planned_turn`, `graph`), and how it
#: ended: completed, failed. Labels: program, outcome.
STEP_DURATION_SECONDS: Final = "comitia_step_duration_seconds"
#: Time to record what was decided for some runs in one commit.
TICK_COMMIT_SECONDS: Final = "comitia_tick_commit_seconds"
#: Shards of runs whose lease this replica holds.
SHARDS_HELD: Final = "comitia_shards_held"
#: Shards whose lease a commit or a renewal found lost.
SHARDS_LOST_TOTAL: Final = "comitia_shards_lost_total"
#: Times a run was taken out of memory because it could not be decided, recorded or read, to be taken up again.
RUNS_SET_ASIDE_TOTAL: Final = "comitia_runs_set_aside_total"
#: Runs left where they stand until somebody resumes or cancels them, such as `ENGINE_FAULT`. Labels: reason.
RUNS_PARKED_TOTAL: Final = "comitia_runs_parked_total"
#: What workers of steps said: `answered`, `failed`, `released`, or why it was refused. Labels: outcome.
STEP_OUTCOMES_TOTAL: Final = "comitia_step_outcomes_total"
#: Objects that no journal named any more and that were deleted.
JOURNAL_BLOBS_SWEPT_TOTAL: Final = "comitia_journal_blobs_swept_total"
#: Runs whose facts were moved to the archive.
RUNS_ARCHIVED_TOTAL: Final = "comitia_runs_archived_total"
#: Runs that were deleted by the rule of their tenant, sub-runs among them.
RUNS_DELETED_TOTAL: Final = "comitia_runs_deleted_total"
#: Runs that have succeeded, by whether their cost lay in the 90 % interval of their estimate. Labels: outcome.
RUN_ESTIMATES_TOTAL: Final = "comitia_run_estimates_total"
#: Rounds of the journal's keeping that failed and are tried again: partitions, blobs, archive, deletion. Labels: work.
JOURNAL_KEEPING_FAILED_TOTAL: Final = "comitia_journal_keeping_failed_total"
#: Time by which the event loop of a process came late to what was due: all its calls wait for that. Labels: service.
LOOP_LAG_SECONDS: Final = "comitia_loop_lag_seconds"
#: Seconds by which a machine's clock is ahead of that of its service's database; below 0: behind. Labels: service.
CLOCK_AHEAD_SECONDS: Final = "comitia_clock_ahead_seconds"
#: Things waiting in a bounded queue. Labels: queue.
QUEUE_ITEMS: Final = "comitia_queue_items"
#: Things refused because their queue was full. Labels: queue.
QUEUE_REFUSED_TOTAL: Final = "comitia_queue_refused_total"
#: Things kept in a bounded map, such as a cache. Labels: cache.
CACHE_ITEMS: Final = "comitia_cache_items"
#: Bytes that a bounded map keeps, of those that are bounded in bytes. Labels: cache.
CACHE_BYTES: Final = "comitia_cache_bytes"
#: Items that travelled or were committed together. Labels: queue.
BATCH_ITEMS: Final = "comitia_batch_items"
#: Audit entries that the gateway chained. Labels: service.
AUDIT_ENTRIES_TOTAL: Final = "comitia_audit_entries_total"
#: Refused calls by what became of their audit entry: written, late (written after its caller was told), grouped
#: (counted in an entry for all repeats), dropped (its tenant has too many kinds of them) or lost (the service stopped
#: while the database was away). Labels: service, fate.
AUDIT_REFUSALS_TOTAL: Final = "comitia_audit_refusals_total"
#: Places at which a service's audit entries are missing or were changed: an alarm. Labels: service, kind.
AUDIT_BREAKS_TOTAL: Final = "comitia_audit_breaks_total"
#: Such places that nobody has acknowledged: an alarm that lasts until somebody does. Labels: service.
AUDIT_GAPS: Final = "comitia_audit_gaps"
#: Time from the writing of an audit entry to its place in the chain, of the oldest of each page. Labels: service.
AUDIT_LAG_SECONDS: Final = "comitia_audit_lag_seconds"
#: Unix time at which every audit trail was last seen to be signed to its end; over two minutes ago, heads are late.
AUDIT_SIGNED_SECONDS: Final = "comitia_audit_signed_seconds"
#: 1 while a service's audit entries cannot be fetched. Labels: service.
AUDIT_FEED_AWAY: Final = "comitia_audit_feed_away"
#: Heads of audit trails that were signed.
AUDIT_HEADS_TOTAL: Final = "comitia_audit_heads_total"
#: Tenants whose stored audit trail contradicts what was signed: an alarm.
AUDIT_CONTRADICTIONS: Final = "comitia_audit_contradictions"
#: Calls that were refused, by the service that did, and why: UNAUTHENTICATED (no, an old or a wrong proof of identity),
#: PERMISSION_DENIED, NOT_FOUND (ids of other tenants among them: nobody is told which), RESOURCE_EXHAUSTED (rates,
#: shares and quotas), ABORTED (a `request_id` used for something else, or at work) and so on, each with its reason.
#: Faults of ours, outages and missed deadlines are no refusals. Labels: service, code, reason.
REFUSALS_TOTAL: Final = "comitia_refusals_total"
#: Tokens and assertions signed with a key that is not in the key set: a rotation that has not arrived, or a forger.
UNKNOWN_SIGNING_KEYS_TOTAL: Final = "comitia_unknown_signing_keys_total"
#: Unix time at which the key that signs access tokens began to. Of the gateway.
SIGNING_KEY_SINCE_SECONDS: Final = "comitia_signing_key_since_seconds"
#: Wishes for the keys of an OpenID Connect issuer: fetched, failed, or spared because one was made less than 10 s ago:
#: many of these are a flood of tokens with unknown key ids. Labels: outcome.
ISSUER_KEY_FETCHES_TOTAL: Final = "comitia_issuer_key_fetches_total"
#: Time from a revocation to its arrival at a service. Labels: service.
REVOCATION_LAG_SECONDS: Final = "comitia_revocation_lag_seconds"
#: Seconds since the gateway's last word about revocations and tenants; beyond 5 a service is cut off. Labels: service.
GUARD_FEED_AGE_SECONDS: Final = "comitia_guard_feed_age_seconds"
#: Data keys that were wrapped anew after their key-encryption key had changed. Labels: service.
DATA_KEYS_REWRAPPED_TOTAL: Final = "comitia_data_keys_rewrapped_total"
#: Data keys that an old key-encryption key wraps; while it is not 0 no old one may be removed. Labels: service.
DATA_KEYS_WAITING: Final = "comitia_data_keys_waiting"
#: Calls by what their rate limit said: admitted, refused, and the same `_alone` while the gateway was away.
#: Labels: service, outcome.
RATE_DECISIONS_TOTAL: Final = "comitia_rate_decisions_total"
#: API keys that the edge asked about in vain: wrong, or not looked at because too many wrong ones came from one address
#: (limited). Labels: why.
API_KEYS_REFUSED_TOTAL: Final = "comitia_api_keys_refused_total"
#: 1 while the gateway leases nothing and this service spends its own quarter of each limit. Labels: service.
RATE_LEASES_AWAY: Final = "comitia_rate_leases_away"
#: Calls in progress by kind, call or stream, as the tenants' shares count them. Labels: service, kind.
SEATS_TAKEN: Final = "comitia_seats_taken"
#: Calls refused because their tenant had its share in progress. Labels: service, kind.
SEATS_REFUSED_TOTAL: Final = "comitia_seats_refused_total"
#: Unix time at which the certificate that a service shows its neighbours expires. Labels: service.
TLS_CERTIFICATE_EXPIRES_SECONDS: Final = "comitia_tls_certificate_expires_seconds"

#: Seconds for which the archive of Postgres' log has taken nothing while a segment waits: what a machine that is lost
#: now costs. 0 while none waits, and where there is no archive. Of the gateway, about the server of its database.
WAL_ARCHIVE_LATE_SECONDS: Final = "comitia_wal_archive_late_seconds"
#: Spans by what became of them: exported, dropped because too many waited for the collector, or lost because it did not
#: take them. Labels: fate.
SPANS_TOTAL: Final = "comitia_spans_total"

# --- spans -----------------------------------------------------------------------------------------------------------

#: One turn of one agent in a round of a session, from its first fact to its last: the root of its trace.
SPAN_TURN: Final = "session.round.turn"
#: One call that a run makes: of memory, a model, a tool, for a turn or by itself.
SPAN_CALL: Final = "run.call"
#: One call of a model, law and money included.
SPAN_INFERENCE: Final = "agent.inference"
#: The rules applied to one piece of content.
SPAN_MONITOR: Final = "monitor.sequence"
#: One call of a tool.
SPAN_TOOL: Final = "tool.invoke"

# --- attributes of spans, beside those of `genai` --------------------------------------------------------------------

#: Service that did the work; in a single process all seven report as `comitia`.
ATTRIBUTE_SERVICE: Final = "comitia.service"
#: As `correlation_id` of a log line.
ATTRIBUTE_CORRELATION_ID: Final = "comitia.correlation_id"
#: Place of a step in its run.
ATTRIBUTE_PATH: Final = "comitia.path"
#: What a run calls: `GENERATE`, `RECALL` and so on.
ATTRIBUTE_CALL: Final = "comitia.call"
#: Which part of the content was judged, of what, and by which bundle of rules.
ATTRIBUTE_STAGE: Final = "comitia.policy.stage"
ATTRIBUTE_JUDGED: Final = "comitia.policy.operation"
ATTRIBUTE_BUNDLE: Final = "comitia.policy.bundle"
#: What a call of a model cost, in billionths of a US dollar.
ATTRIBUTE_COST: Final = "comitia.cost_nano_usd"

# --- log fields ------------------------------------------------------------------------------------------------------

#: Service that wrote the line.
LOG_SERVICE: Final = "service"
#: Session or run the line belongs to; without one, the request id of the edge.
LOG_CORRELATION_ID: Final = "correlation_id"
#: Trace the line belongs to, 32 hexadecimal digits.
LOG_TRACE_ID: Final = "trace_id"
#: Finds the log line of an INTERNAL error that a caller reports.
LOG_INCIDENT_ID: Final = "incident_id"
