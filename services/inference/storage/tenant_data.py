"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, DATA_KEY, REQUEST_ID, deleted

TENANT_DATA: Final = (
    DATA_KEY,
    deleted("call"),
    deleted("model_version"),
    deleted("model_deployment"),
    deleted("model_route"),
    deleted("model_rollout"),
    deleted("rollout_event"),
    deleted("rollout_event_sum"),
    deleted("rollout_tally"),
    deleted("rollout_score"),
    deleted("rollout_score_sum"),
    deleted("tried_answer"),
    deleted("bandit_arm"),
    deleted("learnt_answer"),
    deleted("model_comparison"),
    deleted("model_batch_item"),
    deleted("model_batch"),
    REQUEST_ID,
    AUDIT_ENTRY,
)
