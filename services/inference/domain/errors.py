"""What can go wrong when a model is asked.

MeshError
├── Invalid ─────────┬── ContextTooLong            CONTEXT_TOO_LONG
│                    └── MediaInvalid              MEDIA_INVALID
├── NotFound ────────┬── ModelNotFound             MODEL_NOT_FOUND
│                    ├── RolloutNotFound           ROLLOUT_NOT_FOUND
│                    └── BatchNotFound             BATCH_NOT_FOUND
├── Precondition ─┬───── NoModelConfigured         NO_MODEL_CONFIGURED
│                 ├───── ModelNotReady             MODEL_NOT_READY
│                 ├───── NoEmbedderConfigured      NO_EMBEDDER_CONFIGURED
│                 ├───── CallNotBounded            CALL_NOT_BOUNDED
│                 ├───── ModelIncompatible         MODEL_INCOMPATIBLE
│                 ├───── AdapterUnusable           ADAPTER_UNUSABLE
│                 ├───── RolloutDecided            ROLLOUT_DECIDED
│                 ├───── BatchEnded                BATCH_ENDED
│                 ├───── PatientWorkUnsupported    PATIENT_WORK_UNSUPPORTED
│                 ├───── EgressRefused             EGRESS_REFUSED         ┐
│                 ├───── OutputInvalid             OUTPUT_INVALID         │
│                 └───── ProviderRefused           PROVIDER_REFUSED       │
├── Exhausted ─────────┬ TooManyRegistered         TOO_MANY_REGISTERED    │
│                      │ TooManyBatches            TOO_MANY_BATCHES       │
│                      │ ProviderRateLimited       PROVIDER_RATE_LIMITED  ├ ProviderFailure
├── Unavailable-kind ──│ ProviderUnavailable       PROVIDER_UNAVAILABLE   ┘
│                      │ AnswerBrokeOff            ANSWER_BROKE_OFF
│                      │ AnswerUnjudged            ANSWER_UNJUDGED
│                      │ DoorsFull                 DOORS_FULL
│                      │ ModelUnreadable           MODEL_UNREADABLE
│                      └ ModelBusy                 TOO_MANY_MODEL_CALLS
├── PermissionDenied ─── LawBlocked                LAW_BLOCKED
└── Conflict ─────────┬─ CallArgumentsDiffer       CALL_ARGUMENTS_DIFFER
                      ├─ CallInProgress            CALL_IN_PROGRESS
                      ├─ RolloutInProgress         ROLLOUT_IN_PROGRESS
                      └─ RouteChanged              ROUTE_CHANGED
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Final

from services.meshkit.content import CallId, Usage
from services.meshkit.core.errors import (
    Conflict,
    ErrorKind,
    Exhausted,
    Invalid,
    MeshError,
    NotFound,
    PermissionDenied,
    Precondition,
)


class ModelNotFound(NotFound):
    """No deployment has this name. ListModels names those that exist."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__("model", name)


class RolloutNotFound(NotFound):
    """The tenant has no such rollout."""

    reason = "ROLLOUT_NOT_FOUND"

    def __init__(self, rollout_id: str) -> None:
        super().__init__("rollout", rollout_id)


class BatchNotFound(NotFound):
    """The tenant has no such batch."""

    reason = "BATCH_NOT_FOUND"

    def __init__(self, batch_id: str) -> None:
        super().__init__("batch", batch_id)


class BatchEnded(Precondition):
    """The batch has come to its end: there is nothing to cancel."""

    reason = "BATCH_ENDED"

    def __init__(self, batch_id: str, *, state: str) -> None:
        super().__init__(f"the batch {batch_id!r} is {state} already", batch_id=batch_id, state=state)


class PatientWorkUnsupported(Precondition):
    """The model does no batches, or cannot be told this in one. Ask it call by call, or another one."""

    reason = "PATIENT_WORK_UNSUPPORTED"

    def __init__(self, deployment: str, field: str, sentence: str) -> None:
        super().__init__(f"{field}: {deployment} {sentence}", deployment=deployment, field=field)


class TooManyBatches(Exhausted):
    """The tenant has as many open batches as it may. Wait until one has ended, or cancel one."""

    reason = "TOO_MANY_BATCHES"

    def __init__(self, most: int) -> None:
        super().__init__(f"at most {most} batches of a tenant are open at once", most=most)


class TooManyRegistered(Exhausted):
    """The tenant has as many of these as it may. Retire or delete some."""

    reason = "TOO_MANY_REGISTERED"

    def __init__(self, noun: str, most: int) -> None:
        super().__init__(f"at most {most} {noun}s are kept for a tenant", noun=noun, most=most)


class NoModelConfigured(Precondition):
    """No deployment may answer: none is configured, or none runs where the content must stay."""

    reason = "NO_MODEL_CONFIGURED"

    def __init__(self, *, region: str = "") -> None:
        if region:
            sentence = f"no model runs in the region {region!r}, where the content must stay; configure one there"
        else:
            sentence = "no model is configured; set an API key, a base URL or start the local model"
        super().__init__(sentence, region=region or None)


class ModelNotReady(Precondition):
    """What stands behind a name may not be asked yet, or no more. `GetModelDeployment` says what its check found."""

    reason = "MODEL_NOT_READY"

    def __init__(self, name: str, *, states: tuple[str, ...]) -> None:
        found = "; ".join(states)
        super().__init__(f"nothing behind {name!r} is ready to be asked: {found}", name=name, states=found)


class NoEmbedderConfigured(Precondition):
    """No deployment makes vectors. Start the local model or configure one."""

    reason = "NO_EMBEDDER_CONFIGURED"

    def __init__(self) -> None:
        super().__init__("no embedding model is configured; start the local model or name one in the settings")


class NothingCompares(Precondition):
    """Nothing inside the mesh makes vectors, so no two questions can be compared. Start the local model."""

    reason = "NOTHING_COMPARES"

    def __init__(self) -> None:
        super().__init__(
            "`cache.semantic_threshold` needs a model inside the mesh that compares questions, and none is configured:"
            " start the local model (`COMITIA_INFERENCE_LOCAL_MODEL_URL`), or leave the threshold out"
        )


class CallNotBounded(Precondition):
    """Nobody can say what the call costs at most, so no money can be held for it."""

    reason = "CALL_NOT_BOUNDED"

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(f"{field}: {sentence}", field=field)


class ContextTooLong(Invalid):
    """Prompt and longest answer fit into the window of no model that may answer. Shorten one of them."""

    reason = "CONTEXT_TOO_LONG"

    def __init__(self, *, tokens: int, window: int) -> None:
        super().__init__(
            "messages",
            f"prompt and answer take up to {tokens} tokens, {tokens - window} more than the window of {window} holds",
            tokens=tokens,
            window=window,
            over_by=tokens - window,
        )


class MediaInvalid(Invalid):
    """A picture or a document is not what it says it is, or more than a model may be shown."""

    reason = "MEDIA_INVALID"


class ModelIncompatible(Precondition):
    """A version is not what it says it is, or cannot stand in for another. Correct what it claims."""

    reason = "MODEL_INCOMPATIBLE"

    def __init__(self, deployment: str, *, differs: tuple[str, ...]) -> None:
        super().__init__(f"the model {deployment!r} does not fit: {'; '.join(differs)}", deployment=deployment)


class AdapterUnusable(Precondition):
    """An adapter is not installed, or cannot be used as it is. One that the settings need ends the start."""

    reason = "ADAPTER_UNUSABLE"

    def __init__(self, adapter: str, why: str) -> None:
        super().__init__(f"the adapter {adapter!r} cannot be used: {why}", adapter=adapter)


class LawBlocked(PermissionDenied):
    """The law stops the call. The verdict names the rules."""

    reason = "LAW_BLOCKED"

    def __init__(self, *, verdict_id: str, stage: str, rules: tuple[str, ...], bundle: str) -> None:
        named = ", ".join(rules) or "unnamed"
        super().__init__(
            f"the law {bundle!r} stopped this call {stage} the model; rules: {named}",
            verdict_id=verdict_id,
            stage=stage,
            rules=named,
            bundle=bundle,
        )


class CallArgumentsDiffer(Conflict):
    """The same call id came before with other arguments. Adopt the recorded intent, or use another id."""

    reason = "CALL_ARGUMENTS_DIFFER"

    def __init__(self, call_id: CallId) -> None:
        super().__init__(f"the call {call_id} was made before with other arguments", call_id=call_id)


class CallInProgress(Conflict):
    """Another replica makes this call. Repeat it, and get its answer."""

    reason = "CALL_IN_PROGRESS"

    def __init__(self, call_id: CallId, *, retry_after: timedelta) -> None:
        super().__init__(f"the call {call_id} is being made", retry_after=retry_after, call_id=call_id)


class RolloutInProgress(Conflict):
    """A rollout of this route is running. Decide it first."""

    reason = "ROLLOUT_IN_PROGRESS"

    def __init__(self, route: str, *, rollout_id: str) -> None:
        super().__init__(f"a rollout of the route {route!r} is running", route=route, rollout_id=rollout_id)


class RouteChanged(Conflict):
    """Somebody changed the route after it was read. Read it again and redo the change."""

    reason = "ROUTE_CHANGED"

    def __init__(self, name: str) -> None:
        super().__init__(f"the route {name!r} was changed meanwhile; read it again", route=name)


class RolloutDecided(Precondition):
    """The rollout has ended. Start another one."""

    reason = "ROLLOUT_DECIDED"

    def __init__(self, rollout_id: str, *, state: str) -> None:
        super().__init__(f"the rollout {rollout_id!r} is {state} already", rollout_id=rollout_id, state=state)


class ModelBusy(Exhausted):
    """As many model calls are running as this replica makes at once, and enough wait. Try again shortly."""

    reason = "TOO_MANY_MODEL_CALLS"

    def __init__(self, most: int, *, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(
            f"{most} model calls are running already; try again shortly", retry_after=retry_after, most=most
        )


class DoorsFull(Exhausted):
    """Long requests of others are being answered, and there is no memory for one more. Try again shortly."""

    reason = "DOORS_FULL"

    def __init__(self, most: int, *, retry_after: timedelta) -> None:
        super().__init__(
            f"long requests that are being answered have taken their room of {most} bytes; try again shortly",
            retry_after=retry_after,
            most=most,
        )


class Charge(Enum):
    """What is known about the price of a failed attempt."""

    #: The provider charges nothing: nothing was sent, or it answered with an error instead of an answer.
    NOTHING = "nothing"
    #: Something was sent and nobody reported usage: the hold expires into `assumed`.
    UNKNOWN = "unknown"


class ProviderFailure(MeshError):
    """An attempt at one deployment failed.

    Args:
        charge: what is owed for it: a class of charge, or real usage.
        said: short codes that the provider gave.
        field: of the request, where that is at fault.
    """

    reason = "PROVIDER_FAILED"

    def __init__(
        self,
        message: str,
        *,
        deployment: str,
        charge: Charge | Usage = Charge.NOTHING,
        retry_after: timedelta | None = None,
        said: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after, deployment=deployment)
        self._add_metadata(dict(said or {}))
        self.charge: Charge | Usage = charge


class ProviderRefused(ProviderFailure):
    """The provider says no: the key is wrong, or it does not take the request. Repeating does not help."""

    kind = ErrorKind.PRECONDITION
    reason = "PROVIDER_REFUSED"


class EgressRefused(ProviderFailure):
    """The installation sends nothing to the address of this deployment. Its operator can list it."""

    kind = ErrorKind.PRECONDITION
    reason = "EGRESS_REFUSED"

    def __init__(self, deployment: str, *, host: str) -> None:
        super().__init__(f"this installation sends nothing to {host!r}", deployment=deployment, said={"host": host})


class OutputInvalid(ProviderFailure):
    """A model answered, and not in the form that was asked for. Ask one that its provider keeps to schemas."""

    kind = ErrorKind.PRECONDITION
    reason = "OUTPUT_INVALID"

    def __init__(self, deployment: str, *, place: str, rule: str, answer: str, charge: Charge | Usage) -> None:
        super().__init__(
            f"{deployment} did not answer in the wanted form; the last answer broke it at {place}: {rule}",
            deployment=deployment,
            charge=charge,
            said={"place": place, "rule": rule},
        )
        self.place = place
        self.rule = rule
        #: What the model said, as nobody has judged it: it goes back to a model, under the law, and to nobody else.
        self.answer = answer


class ProviderRateLimited(ProviderFailure):
    """The provider asks to wait."""

    kind = ErrorKind.EXHAUSTED
    reason = "PROVIDER_RATE_LIMITED"


class ProviderUnavailable(ProviderFailure):
    """The provider does not answer, or with something that is no answer."""

    kind = ErrorKind.UNAVAILABLE
    reason = "PROVIDER_UNAVAILABLE"


class AnswerBrokeOff(MeshError):
    """A model broke off after text was shown, and its caller wants no other to go on. What was shown is not whole."""

    kind = ErrorKind.UNAVAILABLE
    reason = "ANSWER_BROKE_OFF"

    def __init__(self, deployment: str) -> None:
        super().__init__(f"the model {deployment!r} broke off; what was shown is not whole", deployment=deployment)


class AnswerUnjudged(MeshError):
    """A model answered, and the law could not be asked about it, so nobody may see it. A repeat is paid once more."""

    kind = ErrorKind.UNAVAILABLE
    reason = "ANSWER_UNJUDGED"

    def __init__(self, hold_id: str) -> None:
        super().__init__("the law cannot be asked about the answer right now, so it is not shown", hold_id=hold_id)


class ModelUnreadable(MeshError):
    """What is registered under this name cannot be read by this replica; another release wrote it. Nobody stands in."""

    kind = ErrorKind.UNAVAILABLE
    reason = "MODEL_UNREADABLE"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} cannot be read by this replica: another release wrote what it is", name=name)


#: How promising a repeat is, best first: decides which of several failures of a chain the caller is told.
_HOPE: Final = (ProviderRateLimited, ProviderUnavailable, OutputInvalid, ProviderRefused)


def most_hopeful(failures: list[MeshError]) -> MeshError:
    """Picks the failure of a chain that tells the caller best whether a repeat may help; the last one at a tie."""
    for kind in _HOPE:
        for failure in reversed(failures):
            if isinstance(failure, kind):
                return failure
    return failures[-1]
