"""Embeds texts: what is known comes from the cache, the rest from the embedder, under money and, outside, law."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.inference.domain.deployment import DeploymentVersion, Task
from services.inference.domain.errors import Charge, ModelBusy, NoModelConfigured, ProviderFailure
from services.inference.domain.law import raise_if_blocked
from services.inference.domain.money_bound import embedding_bound
from services.inference.domain.vector_cache import Vector, VectorCache
from services.inference.usecases.ports import Embedded, HoldClient, KnowsEmbedders, OpenEmbedders
from services.meshkit.calls.ports import Clearance, LawGate
from services.meshkit.content import CallContext, Label, Usage, text_part
from services.meshkit.content.law import Stage, Subject
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import DeadlineExceeded, Internal, Invalid, MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

MAX_TEXTS: Final = 256
MAX_CHARACTERS: Final = 32_000
_HOLD_MARGIN_SECONDS: Final = 30.0
_UNLABELLED: Final = Label()
_QUEUE: Final = "inference_embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedVectors:
    """A request to embed."""

    principal: Principal
    context: CallContext
    #: `default` or the name of a deployment.
    model: str
    texts: tuple[str, ...]
    #: Time of the monotonic clock at which the vectors are no longer wanted.
    deadline: float
    #: What the law knows of the texts.
    label: Label = _UNLABELLED
    #: The version to ask, whatever the tenant has under its name, for what must not leave the mesh.
    inside: DeploymentVersion | None = None
    #: True to ask a version that is not ready, by deployment and number, whatever is known already.
    checking: bool = False

    def check(self) -> None:
        """Raises Invalid, naming the field, unless all limits are kept."""
        if not 1 <= len(self.texts) <= MAX_TEXTS:
            raise Invalid("texts", f"must hold 1 to {MAX_TEXTS} texts")
        for index, text in enumerate(self.texts):
            if not text.strip() or len(text) > MAX_CHARACTERS:
                raise Invalid(f"texts[{index}]", f"must be 1 to {MAX_CHARACTERS} characters, not only white space")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Unit vectors, one for each text, and what making the missing ones used."""

    vectors: tuple[Vector, ...]
    model: str
    usage: Usage


class Embed:
    """Makes vectors. Law judges texts that leave the mesh; for the local model nothing leaves, and the vector of a text
    goes nowhere but back to who sent it.

    Small calls at the same time are put together by the embedder itself: there they share a run of the model, and here
    each keeps its own hold and usage.
    """

    def __init__(
        self,
        *,
        registry: KnowsEmbedders,
        models: OpenEmbedders,
        law: LawGate,
        holds: HoldClient,
        cache: VectorCache,
        tenants: KnowsTenants,
        clock: Clock,
        most_calls: int,
    ) -> None:
        self._registry = registry
        self._models = models
        self._law = law
        self._holds = holds
        self._cache = cache
        self._tenants = tenants
        self._clock = clock
        self._most_calls = most_calls
        self._running = 0

    async def __call__(self, asked: AskedVectors) -> Vectors:
        """Gives the vectors.

        Raises: Invalid, NoEmbedderConfigured, ModelNotFound, ModelBusy, ProviderFailure, LawBlocked; what money raises.
        """
        asked.check()
        tenant = asked.principal.tenant
        regions = asked.context.residency_region, rules_of(self._tenants, tenant).residency_region
        deployment = self._version(asked)
        if not deployment.keeps_in(*regions):
            raise NoModelConfigured(region=" and ".join(sorted(set(filter(None, regions)))))
        # A name may come to stand for another model, and its numbers begin anew then.
        kept_as = f"{deployment.deployment_id} {deployment.full_name} {deployment.model}"
        known = {text: self._known(tenant, kept_as, text, asked) for text in dict.fromkeys(asked.texts)}
        missing = tuple(text for text, vector in known.items() if vector is None)
        usage = Usage()
        if missing:
            made = await self._bounded(asked, deployment, missing)
            usage = made.usage or Usage()
            for text, vector in zip(missing, made.vectors, strict=True):
                known[text] = vector
                self._cache.put(tenant, kept_as, text, vector)
        vectors = tuple(vector for text in asked.texts if (vector := known[text]) is not None)
        return Vectors(vectors=vectors, model=deployment.model, usage=usage)

    def _version(self, asked: AskedVectors) -> DeploymentVersion:
        if asked.inside is None:
            return self._registry.embedder(asked.principal.tenant, asked.model, checking=asked.checking)
        if not asked.inside.inside_mesh:
            raise Internal(f"{asked.inside.name} is outside of the mesh")
        return asked.inside

    def _known(self, tenant: TenantId, kept_as: str, text: str, asked: AskedVectors) -> Vector | None:
        return None if asked.checking else self._cache.get(tenant, kept_as, text)

    async def _bounded(self, asked: AskedVectors, deployment: DeploymentVersion, texts: tuple[str, ...]) -> Embedded:
        if self._running >= self._most_calls:
            metrics.QUEUE_REFUSED.labels(_QUEUE).inc()
            raise ModelBusy(self._most_calls)
        self._running += 1
        metrics.QUEUE_ITEMS.labels(_QUEUE).set(self._running)
        try:
            return await self._make(asked, deployment, texts)
        finally:
            self._running -= 1
            metrics.QUEUE_ITEMS.labels(_QUEUE).set(self._running)

    async def _make(self, asked: AskedVectors, deployment: DeploymentVersion, texts: tuple[str, ...]) -> Embedded:
        principal = asked.principal
        seconds = self._seconds_left(asked)
        verdict_id = await self._judge(asked, deployment, texts)
        hold = await self._holds.hold(
            principal,
            asked.context,
            task=Task.EMBED,
            provider=deployment.payee,
            model=deployment.model,
            bound=embedding_bound(texts),
            ttl=timedelta(seconds=seconds + _HOLD_MARGIN_SECONDS),
        )
        charge: Charge | Usage = Charge.NOTHING
        try:
            # Money may have been waited for.
            seconds = self._seconds_left(asked)
            clearance = Clearance(hold=hold, verdict_id=verdict_id)
            embedder = self._models.embedder(deployment)
            charge = Charge.UNKNOWN
            made = await embedder.embed(deployment, texts, clearance, seconds=seconds)
            charge = made.usage or Charge.UNKNOWN
        except ProviderFailure as failure:
            charge = failure.charge
            raise
        finally:
            await finish(self._pay(principal, hold.id, charge))
        self._count(deployment, made.usage)
        return made

    def _seconds_left(self, asked: AskedVectors) -> float:
        left = asked.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time of this call is used up")
        return left

    async def _judge(self, asked: AskedVectors, deployment: DeploymentVersion, texts: tuple[str, ...]) -> str:
        if deployment.inside_mesh:
            return ""
        subject = Subject(
            stage=Stage.BEFORE,
            parts=tuple(text_part(text, asked.label) for text in texts),
            context=asked.context,
            target=deployment.model,
        )
        verdict = await self._law.evaluate(asked.principal, subject)
        raise_if_blocked(verdict, Stage.BEFORE)
        if verdict.parts:
            # A vector of other words than the caller's would be kept, and found, under the caller's words.
            raise Invalid("texts", "hold what the law redacts; redact them before embedding", verdict_id=verdict.id)
        return verdict.id

    async def _pay(self, principal: Principal, hold_id: str, charge: Charge | Usage) -> None:
        """Settles or frees the hold. While cost is down it expires by itself, on the safe side."""
        try:
            if isinstance(charge, Usage):
                await self._holds.settle(principal, hold_id, charge)
            elif charge is Charge.NOTHING:
                await self._holds.release(principal, hold_id, dispatched_unbilled=True)
        except MeshError as error:
            log.warning("an embedding's hold is left to expire", hold_id=hold_id, error=error.message)
        except Exception:
            # A fault of ours must neither hide a failure nor withhold vectors that are paid for.
            log.exception("an embedding's hold is left to expire", hold_id=hold_id)

    def _count(self, deployment: DeploymentVersion, usage: Usage | None) -> None:
        if usage is not None:
            metrics.TOKENS_CONSUMED.labels(deployment.payee, deployment.model, "input").inc(usage.input)
