"""Makes violations durable, many verdicts to a transaction, before anybody hears of the verdict."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.policy.domain.subject import Stage, Subject
from services.policy.domain.violation import Violation
from services.policy.usecases.ports import ViolationStore, Wakes

AFTER_VIOLATION_COMMIT: Final = "policy.after_violation_commit"
register(AFTER_VIOLATION_COMMIT)

#: Violations of streams in progress that are remembered.
_MOST_REMEMBERED: Final = 50_000

_rule: Final = metrics.BoundedLabel()

#: The violations of one verdict.
Group = tuple[Violation, ...]


class CommitViolations:
    """Commits the violations of many verdicts in one transaction. What `GroupCommit` calls.

    Args:
        recorded: told the tenants after the commit.
    """

    def __init__(self, *, store: ViolationStore, wakes: Wakes, recorded: Callable[[Iterable[TenantId]], None]) -> None:
        self._store = store
        self._wakes = wakes
        self._recorded = recorded

    async def __call__(self, groups: Sequence[Group]) -> Sequence[None]:
        await self._store.add(groups)
        await failpoint(AFTER_VIOLATION_COMMIT)
        tenants = {group[0].tenant for group in groups}
        self._recorded(tenants)
        await self._wakes.violations_recorded(tenants)
        for group in groups:
            for violation in group:
                metrics.VIOLATIONS.labels(violation.severity.name.lower(), _rule(violation.rule)).inc()
        return [None] * len(groups)


class RecordViolations:
    """Records the violations of a verdict.

    While an answer streams, the same text is judged again and again as it grows. A rule that was recorded for a stage
    of a call by this replica is not recorded for it again; the verdict on the whole answer says what became of it.
    """

    def __init__(self, commits: GroupCommit[Group, None]) -> None:
        self._commits = commits
        self._remembered: OrderedDict[tuple[object, ...], None] = OrderedDict()

    async def __call__(self, violations: Group, subject: Subject) -> None:
        """Returns once they are durable.

        Raises: QueueFull; Unavailable: the database is away.
        """
        if subject.stage is not Stage.DURING:
            await self._commits.submit(violations)
            return
        keys = {_key(violation, subject): violation for violation in violations}
        fresh = tuple(violation for key, violation in keys.items() if key not in self._remembered)
        if not fresh:
            return
        await self._commits.submit(fresh)
        for key in keys:
            self._remembered[key] = None
            self._remembered.move_to_end(key)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)


def _key(violation: Violation, subject: Subject) -> tuple[object, ...]:
    return (violation.tenant, subject.context.call_id, violation.bundle, violation.rule, subject.operation)
