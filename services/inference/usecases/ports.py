"""What the use cases need from outside: law, money, providers, a registry of models, and a memory of calls."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Protocol

from services.inference.domain.answer import Answer, Piece, Whole
from services.inference.domain.call import Claimed, RecordedCall
from services.inference.domain.call_policy import CallPolicy
from services.inference.domain.cheaper import TokenRates
from services.inference.domain.deployment import AdapterForm, Capability, DeploymentVersion, Task
from services.inference.domain.money_bound import Overhead
from services.inference.domain.prompt import Prompt
from services.inference.domain.reliability.health import Health
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.route import AttemptOutcome, Candidate, Plan, Route
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import Release
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
    #: Longest time until the end of the answer, until something of it comes, and without anything coming after that.
    seconds: float
    first_byte_seconds: float = inf
    between_seconds: float = inf


class ModelProvider(Protocol):
    """Speaks to one provider in its dialect. Only providers open sockets, and only with a clearance."""

    def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """Asks and gives the answer as it comes; the last item is `Finished`.

        Closing the generator closes the socket, so that the provider stops.

        Raises: ProviderFailure, with what is owed; also when the stream ends without `Finished`.
        """
        ...

    async def whole(self, call: ProviderCall) -> Whole:
        """Asks without a stream and gives the answer once it is whole, for when nobody watches.

        Cancelling closes the socket.

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

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | Claimed:
        """Records the intent of a call, or gives the outcome that it has already.

        A call that was claimed before, not given back, and has no outcome, was lost: what became of it is unknown. So
        it is at once for the replica that had claimed it, and for others when its claim was not extended in time.

        Raises: CallArgumentsDiffer: the id came before with another hash. CallInProgress: another replica makes it.
        """
        ...

    async def extend_claims(self, keys: Sequence[CallKey]) -> None:
        """Says that this replica is still making these calls. Those of others are not touched."""
        ...

    async def free_claims(self, keys: Sequence[CallKey]) -> None:
        """Says that this replica makes these calls no longer, though nobody knows how they ended."""
        ...

    async def give_back(self, key: CallKey) -> None:
        """Says that a claimed call has failed and that its caller was told: it was not lost."""
        ...

    async def acknowledge(self, keys: Sequence[CallKey]) -> None:
        """Says that the outcomes of these calls are durable with whoever made them: they are kept for repeats no longer
        than direct ones are, from now on.
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
        """Gives the full names of those versions whose calls a hard budget can hold."""
        ...

    async def rates(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> Mapping[str, TokenRates]:
        """Gives what those versions take that have a price, by full name."""
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
    #: True when models that embed can stand behind it.
    embeds: bool = False


class Adapters(Protocol):
    """Knows the adapters there are, for rooms that may not import them."""

    def claims(self, adapter: str) -> AdapterClaims:
        """Raises: Invalid: there is no such adapter."""
        ...


class OpenModels(Protocol):
    """Opens the providers of versions, and keeps them open while they are asked."""

    def provider(self, version: DeploymentVersion) -> ModelProvider:
        """Gives the provider of a version: the same one each time, while its key stays.

        Raises: AdapterUnusable: the package that brought its adapter is gone. ProviderUnavailable: its key is not open.
        """
        ...


class OpenEmbedders(Protocol):
    """Opens what asks versions for vectors."""

    def embedder(self, version: DeploymentVersion) -> EmbeddingProvider:
        """Gives what asks a version. Raises: as `OpenModels.provider`."""
        ...


class KnowsEmbedders(Protocol):
    """Knows which models embed, from memory; it never waits."""

    def embedder(self, tenant: TenantId, name: str, *, checking: bool = False) -> DeploymentVersion:
        """Gives the version that embeds under a name.

        Args:
            checking: also one that is not ready, by deployment and number.
        Raises: ModelNotFound, NoEmbedderConfigured.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What stands behind a name that callers ask for."""

    #: None when it names a deployment, or the chain of the settings.
    route: Route | None
    #: Versions that may be asked, in the order of the route's members, or of the chain.
    versions: tuple[DeploymentVersion, ...]
    #: The rollout that splits the route now.
    rollout: Rollout | None = None


class Registry(Protocol):
    """Knows deployments, routes and rollouts of all tenants, from memory; it never waits."""

    def resolve(self, tenant: TenantId, name: str, *, checking: bool = False) -> Resolved:
        """Gives what stands behind a name: a route of the tenant, its deployment, one of the settings.

        Args:
            checking: also a version that is not ready, by deployment and number.
        Raises: ModelNotFound.
        """
        ...

    def versions(self, tenant: TenantId) -> Sequence[DeploymentVersion]:
        """Gives all versions that the tenant may ask."""
        ...

    def routes(self, tenant: TenantId) -> Sequence[str]:
        """Gives the names of the tenant's routes."""
        ...

    def unreadable(self, tenant: TenantId) -> Sequence[str]:
        """Gives the names of the tenant's deployments and routes that cannot be read here."""
        ...

    def policy(self, tenant: TenantId, name: str) -> CallPolicy:
        """Gives what calls by a name do that do not say it themselves: what its route says, else what is usual."""
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


class MakesCalls(Protocol):
    """Makes calls of models, from their ids to their settlement."""

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """Gives the answer; a repeat of a recorded call gets the recorded one.

        Args:
            release: shows what of the answer may be shown while it comes, if it is streamed.
        """
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
    #: Why, such as `BREAKER_OPEN`.
    reason: str


class Gatekeeper(Protocol):
    """Lets a replica ask a version as often as that is good for both: breaker, cooldown and the provider's limits."""

    def allow(self, candidate: Candidate, *, bound: Usage, now: float, repeat: bool = False) -> Permit | Wait:
        """Gives leave, or says how long there is none.

        Args:
            repeat: True when this call has asked the version before; of these there are few, whatever fails.
        """
        ...

    def is_open(self, candidate: Candidate, *, now: float) -> bool:
        """Says whether breaker and cooldown would give leave now; takes none."""
        ...

    def done(self, permit: Permit, outcome: AttemptOutcome, *, now: float) -> None:
        """Takes a permit back."""
        ...


class HoldsAhead(Protocol):
    """Begins to hold money before it is asked for, while the law still looks at the prompt."""

    def ahead(self, asked: Asked, first: DeploymentVersion) -> AbstractAsyncContextManager[None]:
        """Holds for asking `first`, in the block; what nobody asked for is free again after it."""
        ...


class KnowsHealth(Protocol):
    """Knows how this replica finds the versions that it asks."""

    def health(self, versions: Sequence[DeploymentVersion], *, now: float) -> Sequence[Health]:
        """Gives what is known of each; of one that was never asked, that nothing speaks against it."""
        ...


class KeyExchange(Protocol):
    """Gives access tokens for API keys."""

    async def token(self, key: str) -> Secret:
        """Gives a token of 15 minutes.

        Raises: API_KEY_INVALID, TENANT_SUSPENDED as the gateway says them; Unavailable.
        """
        ...
