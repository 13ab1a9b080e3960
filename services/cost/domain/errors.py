"""What cost refuses, each with a reason of its own."""

from datetime import timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.meshkit.core.errors import AlreadyExists, Conflict, Exhausted, NotFound, Precondition
from services.meshkit.core.ids import from_uuid

#: When a refusal caused by money that is only held may be worth another try.
_HELD_RETRY: Final = timedelta(seconds=1)


class RefusalCause(StrEnum):
    """Why a budget cannot hold a call."""

    #: Too much is spent. Waiting does not help.
    SPENT = "spent"
    #: Calls in progress hold the rest; some of it comes back when they settle.
    HELD = "held"
    #: The budget is overrun: nothing new is held until it is not.
    OVERRUN = "overrun"


class BudgetExhausted(Exhausted):
    """A budget cannot hold this call. Raise its limit, or wait if the rest is only held."""

    reason = "BUDGET_EXHAUSTED"

    def __init__(self, budget: UUID, *, asked: int, left: int, cause: RefusalCause) -> None:
        name = from_uuid("budget", budget)
        super().__init__(
            f"budget {name!r} has {left} nano-USD left and {asked} were asked ({cause}); raise its limit to go on",
            retry_after=_HELD_RETRY if cause is RefusalCause.HELD else None,
            budget=name,
            asked_nano_usd=asked,
            left_nano_usd=left,
            cause=cause.value,
        )


class BudgetNotFound(NotFound):
    """No such budget in the caller's tenant."""

    reason = "BUDGET_NOT_FOUND"

    def __init__(self, budget: UUID) -> None:
        super().__init__("budget", from_uuid("budget", budget))


class BudgetExists(AlreadyExists):
    """The run has a budget with another limit. Change that one with SetBudgetLimit."""

    reason = "BUDGET_EXISTS"

    def __init__(self, run_id: str, *, limit: int) -> None:
        super().__init__("budget of run", run_id, limit_nano_usd=limit)


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
            " the models that have one, and COMITIA_COST_FREE_PROVIDERS names providers that charge nothing",
            provider=provider,
            model=model,
        )
