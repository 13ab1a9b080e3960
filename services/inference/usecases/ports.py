"""What the use cases need from outside: law, money, providers and a memory of calls."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from services.inference.domain.answer import Finished, TextDelta
from services.inference.domain.call import RecordedCall
from services.inference.domain.cheaper import TokenRates
from services.inference.domain.deployment import Deployment, Task
from services.inference.domain.prompt import Prompt
from services.meshkit.calls.ports import Clearance, DispatchedHold, Holds, SettlementStore
from services.meshkit.content import CallContext, CallKey, Usage
from services.meshkit.core.identity import Principal
from services.meshkit.core.secret import Secret


class HoldClient(Holds, Protocol):
    """Holds money for calls and charges what they used."""

    async def hold(
        self,
        principal: Principal,
        context: CallContext,
        *,
        task: Task,
        provider: str,
        model: str,
        bound: Usage,
        ttl: timedelta,
        cheapest: bool = False,
    ) -> DispatchedHold:
        """Holds the bound of one attempt in every budget of the call, durably marked as leaving now.

        Ask the law first: from here on, a crash charges the bound. Source: docs/decisions/0001-seams-of-a-turn.md
        It waits for money that others only hold, as long as the caller's time allows.
        Args:
            cheapest: True when nothing cheaper can answer; what a budget that degrades lets through.
        Raises: BUDGET_EXHAUSTED, BUDGET_DEGRADES, PRICE_UNKNOWN as cost says them; Unavailable: nothing may be spent
            blind.
        """
        ...


class ModelProvider(Protocol):
    """Speaks to one provider in its dialect. Only providers open sockets, and only with a clearance."""

    def stream(
        self, deployment: Deployment, prompt: Prompt, clearance: Clearance, *, seconds: float
    ) -> AsyncGenerator[TextDelta | Finished]:
        """Asks and gives the answer as it comes; the last item is `Finished`.

        Closing the generator closes the socket, so that the provider stops.

        Args:
            seconds: longest time until the end of the answer.
        Raises: ProviderFailure, with what is owed; also when the stream ends without `Finished`.
        """
        ...


class EmbeddingProvider(Protocol):
    """Embeds texts in a provider's dialect."""

    async def embed(
        self, deployment: Deployment, texts: tuple[str, ...], clearance: Clearance, *, seconds: float
    ) -> "Embedded":
        """Gives one unit vector for each text, in order.

        Raises: ProviderFailure.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors of unit length and what they used."""

    vectors: tuple[tuple[float, ...], ...]
    #: None when the provider did not say.
    usage: Usage | None


class CallStore(SettlementStore, Protocol):
    """Remembers calls by id. Every method sees one tenant's calls, but for `pending` and `forget_expired`."""

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | None:
        """Records the intent of a call, or gives the outcome that it has already; None: make it.

        Raises: CallArgumentsDiffer: the id came before with another hash.
        """
        ...

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """Makes an outcome durable. The first one stands: gives it, or an earlier one if there is one.

        Args:
            token: access token to settle with after a crash; kept sealed, and only while settling is pending.
        """
        ...

    async def judge(self, recorded: RecordedCall) -> RecordedCall:
        """Puts an outcome in the place of the recorded answer that nobody had judged.

        Returns: what stands, also when another has judged it meanwhile. What became of the money is not touched.
        """
        ...


class PriceList(Protocol):
    """Says which models have a price."""

    async def priced(self, principal: Principal, deployments: Sequence[Deployment]) -> frozenset[str]:
        """Gives the names of those deployments whose calls a hard budget can hold."""
        ...

    async def rates(self, principal: Principal, deployments: Sequence[Deployment]) -> Mapping[str, TokenRates]:
        """Gives what those deployments take that have a price, by name."""
        ...
