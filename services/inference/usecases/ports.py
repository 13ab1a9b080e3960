"""What the use cases need from outside: law, money, providers, a registry of models, and a memory of calls."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import NewType, Protocol

from services.inference.domain.answer import Answer, Piece, Whole
from services.inference.domain.call import RecordedCall
from services.inference.domain.cheaper import TokenRates
from services.inference.domain.deployment import AdapterForm, Capability, DeploymentVersion, Task
from services.inference.domain.money_bound import Overhead
from services.inference.domain.prompt import Prompt
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.route import AttemptOutcome, Candidate, Plan, Route
from services.inference.usecases.asked import Asked
from services.meshkit.calls.ports import Clearance, DispatchedHold, Holds, SettlementStore
from services.meshkit.content import CallContext, CallKey, Usage
from services.meshkit.core.identity import Principal, TenantId
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCall:
    """One exchange with a provider."""

    deployment: DeploymentVersion
    #: As the law passed it.
    prompt: Prompt
    clearance: Clearance
    #: Longest time until the end of the answer.
    seconds: float


class ModelProvider(Protocol):
    """Speaks to one provider in its dialect. Only providers open sockets, and only with a clearance."""

    def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """Asks and gives the answer as it comes; the last item is `Finished`.

        Closing the generator closes the socket, so that the provider stops.

        Raises: ProviderFailure, with what is owed; also when the stream ends without `Finished`.
        """
        ...


class WholeProvider(ModelProvider, Protocol):
    """A provider that is also asked without a stream, when nobody watches."""

    async def whole(self, call: ProviderCall) -> Whole:
        """Asks and gives the answer once it is whole. Cancelling closes the socket.

        Raises: ProviderFailure, with what is owed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a provider fares, as far as it can be seen without a prompt."""

    #: Why it does not answer; empty: it does.
    failure: str = ""
    latency_us: int
    #: Models that it says it has; empty when it does not say.
    models: frozenset[str] = frozenset()


class ProbedProvider(Protocol):
    """A provider that can be looked at without a prompt, and so without money."""

    async def probe(self, deployment: DeploymentVersion, *, seconds: float) -> Probe:
        """Looks. What goes wrong is an answer, not an error."""
        ...


class EmbeddingProvider(Protocol):
    """Embeds texts in a provider's dialect."""

    async def embed(
        self, deployment: DeploymentVersion, texts: tuple[str, ...], clearance: Clearance, *, seconds: float
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

    async def priced(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> frozenset[str]:
        """Gives the names of those deployments whose calls a hard budget can hold."""
        ...

    async def rates(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> Mapping[str, TokenRates]:
        """Gives what those deployments take that have a price, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterClaims:
    """What an adapter can do, whatever model stands behind it."""

    forms: frozenset[AdapterForm]
    capabilities: frozenset[Capability]
    #: What its dialect adds to the bytes of a prompt; None: calls cannot be bounded.
    overhead: Overhead | None
    #: True when it continues an answer whose beginning it is shown.
    prefills: bool
    #: True when nobody knows where it is unless a version says so.
    needs_address: bool = False


class Adapters(Protocol):
    """Knows the adapters there are, for rooms that may not import them."""

    def claims(self, adapter: str) -> AdapterClaims:
        """Raises: Invalid: there is no such adapter."""
        ...


class OpenModels(Protocol):
    """Opens the providers of versions, and keeps them open while they are asked."""

    def provider(self, version: DeploymentVersion) -> ModelProvider:
        """Gives the provider of a version: the same one each time, closed once the version has retired and drained."""
        ...

    def embedder(self, version: DeploymentVersion) -> EmbeddingProvider:
        """As `provider`, for one that embeds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What stands behind a name that callers ask for."""

    #: None when it names a deployment.
    route: Route | None
    #: Versions that may be asked, in the order of the route's members.
    versions: tuple[DeploymentVersion, ...]
    #: The rollout that splits the route now.
    rollout: Rollout | None = None


class Registry(Protocol):
    """Knows deployments, routes and rollouts of all tenants, from memory; it never waits."""

    def resolve(self, tenant: TenantId, name: str) -> Resolved:
        """Gives what stands behind a name: a route of the tenant, its deployment, one of the settings.

        Raises: ModelNotFound.
        """
        ...

    def versions(self, tenant: TenantId) -> Sequence[DeploymentVersion]:
        """Gives all versions that the tenant may ask."""
        ...

    @property
    def age(self) -> float:
        """Seconds since the database was last heard."""
        ...


class Router(Protocol):
    """Chooses whom a call may ask."""

    def plan(self, asked: Asked, *, regions: tuple[str, ...]) -> Plan:
        """Gives the candidates, best first.

        Args:
            regions: where the content must stay, all of them.
        Raises: ModelNotFound, NoModelConfigured, ContextTooLong.
        """
        ...

    def told(self, candidate: Candidate, outcome: AttemptOutcome) -> None:
        """Hears what came of asking a candidate."""
        ...


class Seat(Protocol):
    """A place among the calls that are being made."""

    def used(self, usage: Usage) -> None:
        """Hears what the call used, in place of the weight it was let in with."""
        ...


class Scheduler(Protocol):
    """Shares the places of a replica among tenants."""

    def seat(self, asked: Asked, *, weight: int) -> AbstractAsyncContextManager[Seat]:
        """Waits for a place and keeps it while the block runs.

        Args:
            weight: tokens that the call will take, as far as one can tell.
        Raises: ModelBusy: the queue is full, or the call waited as long as it may.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave to ask a candidate, to be given back with what came of it."""

    candidate: Candidate
    #: True for the one call that finds out whether the candidate has recovered.
    probing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """No leave yet."""

    seconds: float
    #: Why, such as `breaker open`.
    reason: str


class Gatekeeper(Protocol):
    """Lets a replica ask a version as often as that is good for both: breaker, cooldown and the provider's limits."""

    def allow(self, candidate: Candidate, *, bound: Usage, now: float) -> Permit | Wait:
        """Gives leave, or says how long there is none."""
        ...

    def done(self, permit: Permit, outcome: AttemptOutcome, *, now: float) -> None:
        """Takes a permit back."""
        ...


#: HMAC of all that makes an answer what it is, under a key of its tenant.
CacheKey = NewType("CacheKey", bytes)


class AnswerCache(Protocol):
    """Keeps answers in memory, for equal calls of the same tenant."""

    def look(self, key: CacheKey, *, now: float) -> Answer | None:
        """Gives a kept answer that is not too old."""
        ...

    def keep(self, key: CacheKey, answer: Answer, *, until: float) -> None:
        """Keeps an answer."""
        ...
