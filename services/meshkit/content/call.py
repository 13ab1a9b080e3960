"""Identity of an outward call and what travels with it."""

from dataclasses import dataclass, field
from typing import Final

from services.meshkit.core.identity import TenantId

#: Runs above a run whose steps are named with its calls. What lies deeper has no budgets of steps above it but these.
MOST_PARENT_STEPS: Final = 16

#: How run ids begin of calls that no run makes: direct ones, and those at a door that a key names.
DIRECT: Final = "direct"
KEYED: Final = "idem"
#: The same of copies to a shadow, and the agent that the ledger books them on.
SHADOW: Final = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallId:
    """The same id, within a tenant, always means the same intent."""

    #: `run_…`, or `direct_…` for a call made without a run.
    run_id: str
    #: Place of the step in the run, such as `rounds/2/Athena`.
    path: str = ""
    #: Changes only by an explicit decision, never on retry.
    attempt_group: int = 0
    #: Position of the call within its step, from 0.
    index: int = 0

    def __str__(self) -> str:
        return f"{self.run_id}/{self.path}#{self.attempt_group}.{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """Which call, of whom."""

    tenant: TenantId
    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What travels with every outward call made for a run."""

    call_id: CallId
    #: Budget nodes that the call spends from besides the tenant's own.
    budget_ids: tuple[str, ...] = ()
    agent_name: str = ""
    agent_version: str = ""
    project: str = ""
    #: Region the content must stay in; empty means no rule.
    residency_region: str = ""
    #: Bundle of rules that judges in place of the tenant's law, `name@version`, and its digest; empty where none does.
    bundle: str = ""
    bundle_digest: str = ""
    #: Steps of other runs that the run lies below, `run_…/PATH`, the outermost first. They follow from the run, so what
    #: is written of a call to compare it with a repeat leaves them out: releases before knew none.
    parent_steps: tuple[str, ...] = field(default=(), repr=False)
