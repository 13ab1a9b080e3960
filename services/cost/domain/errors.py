"""What cost refuses, each with a reason of its own."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from services.meshkit.core.errors import AlreadyExists, Conflict, Exhausted, Invalid, NotFound, Precondition
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import format_usd

if TYPE_CHECKING:
    from services.cost.domain.hold_lines import HeldBack

#: When a refusal caused by money that is only held may be worth another try.
_HELD_RETRY: Final = timedelta(seconds=1)


def _written(amount: int, unit: str) -> str:
    """Writes an amount of a budget as people read it."""
    if unit == "nano_usd":
        return format_usd(amount)
    if unit == "wall_ms":
        return f"{amount} ms"
    return f"{amount} {unit.removesuffix('s') if amount == 1 else unit}"


class RefusalCause(StrEnum):
    """Why a budget cannot hold a call."""

    #: Too much is spent. Waiting does not help.
    SPENT = "spent"
    #: Calls in progress hold the rest; some of it comes back when they settle.
    HELD = "held"
    #: More is spent than the limit: nothing new is held until that is paid off.
    OVERRUN = "overrun"


_WHY: Final = {
    RefusalCause.SPENT: "more than is left of its limit",
    RefusalCause.HELD: "calls in progress hold the rest, so wait for them",
    RefusalCause.OVERRUN: "more is spent than its limit",
}


class BudgetExhausted(Exhausted):
    """A budget cannot hold this call. Raise its limit, or wait if the rest is only held."""

    reason = "BUDGET_EXHAUSTED"

    def __init__(
        self,
        budget: UUID,
        *,
        name: str,
        asked: int,
        left: int,
        cause: RefusalCause,
        unit: str = "nano_usd",
        why: str = "",
    ) -> None:
        budget_id = from_uuid("budget", budget)
        # Any: metadata of whatever name.
        amounts: dict[str, Any] = {f"asked_{unit}": asked, f"left_{unit}": left}
        super().__init__(
            f"budget {name!r} ({budget_id}) has {_written(left, unit)} left, and the call may take"
            f" {_written(asked, unit)}: {why or _WHY[cause]}; raise its limit to go on",
            retry_after=_HELD_RETRY if cause is RefusalCause.HELD else None,
            budget=budget_id,
            budget_name=name,
            cause=cause.value,
            **amounts,
        )
        self.cause = cause
        #: What it would need, where all of that is only held by others.
        self.held_back: HeldBack | None = None


class TooManyWaiting(Exhausted):
    """So many calls wait for money already that no more can. Try again in a moment."""

    reason = "TOO_MANY_WAITING"

    def __init__(self, *, most: int) -> None:
        super().__init__(
            f"{most} calls wait for money that others hold, and no more may; try again shortly",
            retry_after=_HELD_RETRY,
            most=most,
        )


class BudgetDegrades(Exhausted):
    """So much of a budget is used that only the cheapest model may be called. Take that, and say so."""

    reason = "BUDGET_DEGRADES"

    def __init__(self, budget: UUID, *, name: str) -> None:
        budget_id = from_uuid("budget", budget)
        super().__init__(
            f"budget {name!r} ({budget_id}) lets only the cheapest models through by now; take a cheaper one and say"
            " `cheapest`, or raise its limit",
            budget=budget_id,
            budget_name=name,
        )


class BudgetNotFound(NotFound):
    """No such budget in the caller's tenant."""

    reason = "BUDGET_NOT_FOUND"

    def __init__(self, budget: UUID) -> None:
        super().__init__("budget", from_uuid("budget", budget))


class BudgetExists(AlreadyExists):
    """The run has a budget with another limit, which SetBudgetLimit changes, or of another project, which stays."""

    reason = "BUDGET_EXISTS"

    def __init__(self, run_id: str, *, limit: int, project: str | None) -> None:
        super().__init__("budget of run", run_id, limit_nano_usd=limit, project=project or "")


class NodeNotFound(NotFound):
    """No node of this name in the caller's tenant."""

    reason = "BUDGET_NODE_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__("budget", name)


class BudgetInUse(Precondition):
    """Calls in progress hold money of the budget. Wait until they are settled, and remove it then."""

    reason = "BUDGET_IN_USE"

    def __init__(self, budget: UUID, *, name: str, held: int, calls: int) -> None:
        budget_id = from_uuid("budget", budget)
        super().__init__(
            f"{calls} calls in progress hold {format_usd(held)} of budget {name!r} ({budget_id}); remove it when they"
            " are settled",
            budget=budget_id,
            budget_name=name,
            held_nano_usd=held,
            calls=calls,
        )


class BudgetStays(Precondition):
    """The budgets of a tenant and of its runs cannot be removed. Change their limits instead."""

    reason = "BUDGET_STAYS"

    def __init__(self, budget: UUID, *, name: str) -> None:
        budget_id = from_uuid("budget", budget)
        super().__init__(
            f"budget {name!r} ({budget_id}) is that of the tenant or of a run, which stays; change its limit instead",
            budget=budget_id,
            budget_name=name,
        )


class TooManyBudgets(Exhausted):
    """A tenant has as many budgets of projects, agents and steps as it may. Remove one that nobody needs."""

    reason = "TOO_MANY_BUDGETS"

    def __init__(self, *, most: int) -> None:
        super().__init__(
            f"a tenant has at most {most} budgets of projects, agents and steps; remove one first", most=most
        )


class BudgetWithoutPeriod(Precondition):
    """A budget that never begins anew has no end to forecast. Give it a period, or ask for the month."""

    reason = "BUDGET_WITHOUT_PERIOD"

    def __init__(self, budget: UUID, *, name: str) -> None:
        budget_id = from_uuid("budget", budget)
        super().__init__(
            f"budget {name!r} ({budget_id}) has no period, so there is no end to forecast; give it one, or ask for the"
            " month",
            budget=budget_id,
            budget_name=name,
        )


class TooManySpikeRules(Exhausted):
    """A tenant has as many budgets that unusual spend degrades as it may. Take the rule of another one away."""

    reason = "TOO_MANY_SPIKE_RULES"

    def __init__(self, *, most: int) -> None:
        super().__init__(f"unusual spend degrades at most {most} budgets; take another rule away first", most=most)


class HoldNotFound(NotFound):
    """No such hold in the caller's tenant."""

    reason = "HOLD_NOT_FOUND"

    def __init__(self, hold: UUID) -> None:
        super().__init__("hold", from_uuid("hold", hold))


class _HoldState(Precondition):
    def __init__(self, hold: UUID, sentence: str, *, state: str) -> None:
        name = from_uuid("hold", hold)
        super().__init__(f"hold {name!r} is {state}; {sentence}", hold=name, state=state)


class HoldNotReserved(_HoldState):
    """Only a reserved hold that has not expired can be dispatched. Reserve again."""

    reason = "HOLD_NOT_RESERVED"

    def __init__(self, hold: UUID, *, state: str) -> None:
        super().__init__(hold, "only a reserved one can be dispatched; reserve again", state=state)


class HoldNotDispatched(_HoldState):
    """Only a dispatched call can be settled."""

    reason = "HOLD_NOT_DISPATCHED"

    def __init__(self, hold: UUID, *, state: str) -> None:
        super().__init__(hold, "only a dispatched one can be settled", state=state)


class HoldAlreadyDispatched(_HoldState):
    """The call may have left, so its money stays held. Settle it, or say that it was not billed."""

    reason = "HOLD_ALREADY_DISPATCHED"

    def __init__(self, hold: UUID, *, state: str) -> None:
        super().__init__(hold, "its call may have left; settle it or release it as dispatched_unbilled", state=state)


class HoldAlreadySettled(_HoldState):
    """A settled call cannot be released."""

    reason = "HOLD_ALREADY_SETTLED"

    def __init__(self, hold: UUID) -> None:
        super().__init__(hold, "a charge cannot be released", state="settled")


class HoldNotOpen(_HoldState):
    """Only a hold that holds money still can be extended. Reserve again."""

    reason = "HOLD_NOT_OPEN"

    def __init__(self, hold: UUID, *, state: str) -> None:
        super().__init__(hold, "only one that is open and not past its time can be extended", state=state)


class HoldFenced(Conflict):
    """Somebody with a later fence has taken the call over. Leave it to them."""

    reason = "HOLD_FENCED"

    def __init__(self, hold: UUID, *, fence: int, given: int) -> None:
        name = from_uuid("hold", hold)
        super().__init__(
            f"hold {name!r} belongs to whoever has fence {fence}, and {given} is older: leave the call to them",
            hold=name,
            fence=fence,
            given_fence=given,
        )


class SettledDifferently(Conflict):
    """The call was settled before with another usage. The first one stands."""

    reason = "SETTLED_DIFFERENTLY"

    def __init__(self, hold: UUID) -> None:
        name = from_uuid("hold", hold)
        super().__init__(f"hold {name!r} was settled with another usage, which stands", hold=name)


class PriceUnknown(Precondition):
    """Nobody told us what this model costs, so nothing can be held for it."""

    reason = "PRICE_UNKNOWN"

    def __init__(self, provider: str, model: str) -> None:
        super().__init__(
            f"the price of model {model!r} of {provider!r} is unknown, so nothing can be held for it; ListPrices shows"
            " the models that have one, ImportPrices takes more, SetUnknownPrice lets such calls pass at a ceiling, and"
            " COMITIA_COST_FREE_PROVIDERS names providers that charge nothing",
            provider=provider,
            model=model,
        )


class PriceListWrong(Invalid):
    """A price list has faults, and nothing of it was imported. Correct what the message names."""

    reason = "PRICE_LIST_WRONG"

    def __init__(self, faults: Sequence[str], *, count: int) -> None:
        listed = "; ".join(faults)
        more = f"; and {count - len(faults)} more" if count > len(faults) else ""
        super().__init__("content", f"{listed}{more}", faults=count)
