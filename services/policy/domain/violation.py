"""A rule that matched, as the record keeps it. It never holds the matched text."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.meshkit.core.identity import TenantId
from services.policy.domain.subject import Operation, Stage
from services.policy.domain.verdict import Action, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One match of one rule in one verdict."""

    id: UUID
    tenant: TenantId
    #: Verdict it belongs to, `verdict_…`.
    verdict_id: str
    rule: str
    severity: Severity
    action: Action
    stage: Stage
    operation: Operation
    rationale: str
    #: Run in which it happened; empty for a direct call.
    run_id: str
    path: str
    agent_name: str
    #: `name@version` of the bundle that judged.
    bundle: str
    created: datetime
    #: Number within the tenant, without gap in the order of commits; 0 until it is recorded.
    sequence: int = 0
