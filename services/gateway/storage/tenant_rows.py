"""Quotas, rules and progress of erasures as they lie in JSON columns."""

from collections.abc import Mapping
from typing import Any

from services.gateway.domain.erasure import Erasure
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import AuditLevel, ErasureAction, ErasureStep, Quotas, SecurityPolicy

# A row's values, and JSON as it was stored, are whatever the driver made of them.
Json = dict[str, Any]


def quotas_to_json(quotas: Quotas) -> Json:
    """Writes quotas."""
    return {
        "max_agents": quotas.max_agents,
        "max_workflows": quotas.max_workflows,
        "max_concurrent_runs": quotas.max_concurrent_runs,
        "max_storage_bytes": quotas.max_storage_bytes,
        "max_cost_nano_usd": quotas.max_cost_nano_usd,
        "rate_factor": quotas.rate_factor,
    }


def quotas_of(stored: Json) -> Quotas:
    """Reads quotas; what was never set has no limit."""
    return Quotas(**stored)


def policy_to_json(policy: SecurityPolicy) -> Json:
    """Writes rules."""
    return {
        "allowed_tools": sorted(policy.allowed_tools),
        "tools_forbidden": policy.tools_forbidden,
        "allowed_hosts": list(policy.allowed_hosts),
        "allowed_networks": list(policy.allowed_networks),
        "audit_level": policy.audit_level.value,
        "archive_after_days": policy.archive_after_days,
        "delete_runs_after_days": policy.delete_runs_after_days,
    }


def policy_of(stored: Json) -> SecurityPolicy:
    """Reads rules; what was never set is no rule."""
    return SecurityPolicy(
        allowed_tools=frozenset(stored.get("allowed_tools", ())),
        tools_forbidden=stored.get("tools_forbidden", False),
        allowed_hosts=tuple(stored.get("allowed_hosts", ())),
        allowed_networks=tuple(stored.get("allowed_networks", ())),
        audit_level=AuditLevel(stored.get("audit_level", AuditLevel.MUTATIONS.value)),
        archive_after_days=stored.get("archive_after_days", 0),
        delete_runs_after_days=stored.get("delete_runs_after_days", 0),
    )


def progress_to_json(erasure: Erasure) -> Json:
    """Writes how far an erasure is."""
    return {
        "pending": sorted(erasure.pending),
        "done": sorted(erasure.done),
        "steps": [
            {
                "service": step.service,
                "store": step.store,
                "action": step.action.value,
                "count": step.count,
                "reason": step.reason,
            }
            for step in erasure.steps
        ],
    }


def erasure_of(row: Mapping[Any, Any]) -> Erasure:
    """Reads a row of `erasure`."""
    progress: Json = row["progress"]
    return Erasure(
        tenant=TenantId(row["tenant_id"]),
        start_time=row["start_time"],
        end_time=row["end_time"],
        pending=frozenset(progress["pending"]),
        done=frozenset(progress["done"]),
        steps=tuple(
            ErasureStep(
                service=step["service"],
                store=step["store"],
                action=ErasureAction(step["action"]),
                count=step["count"],
                reason=step["reason"],
            )
            for step in progress["steps"]
        ),
    )
