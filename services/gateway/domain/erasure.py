"""How far the erasure of a tenant is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction, ErasureStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One tenant on its way out."""

    tenant: TenantId
    #: When it was marked.
    start_time: datetime
    #: Services that still have to be asked.
    pending: frozenset[str]
    #: Services that are done.
    done: frozenset[str] = frozenset()
    #: What was done, one per store.
    steps: tuple[ErasureStep, ...] = ()
    #: When all was done.
    end_time: datetime | None = None

    def took(self, service: str, steps: Iterable[ErasureStep], *, done: bool) -> "Erasure":
        """Notes what a service did: deleted rows add up, what is kept is as counted last."""
        known: dict[tuple[str, str], ErasureStep] = {(step.service, step.store): step for step in self.steps}
        for step in steps:
            before = known.get((step.service, step.store))
            known[step.service, step.store] = step if before is None else _together(before, step)
        moved = frozenset({service}) if done else frozenset[str]()
        return replace(self, steps=tuple(known.values()), pending=self.pending - moved, done=self.done | moved)

    def ended(self, now: datetime) -> "Erasure":
        """Closes it once nothing is pending."""
        return self if self.pending or self.end_time is not None else replace(self, end_time=now)


def missing(plan: Mapping[str, object | None]) -> list[str]:
    """Names the services that did not answer."""
    return sorted(service for service, steps in plan.items() if steps is None)


def _together(before: ErasureStep, step: ErasureStep) -> ErasureStep:
    if step.action is ErasureAction.DELETE:
        return replace(step, count=before.count + step.count)
    return replace(step, count=max(before.count, step.count))
