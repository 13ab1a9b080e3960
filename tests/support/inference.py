"""Builders and fakes of inference. The fakes keep state and behave; faults are queued."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from services.inference.domain.answer import Finished, StopReason, TextDelta, Whole
from services.inference.domain.call import Claimed, RecordedCall, SettleState, Unjudged
from services.inference.domain.cheaper import TokenRates
from services.inference.domain.deployment import Adapter, DeploymentVersion, Task
from services.inference.domain.errors import CallArgumentsDiffer, CallInProgress, Charge, ProviderUnavailable
from services.inference.domain.prompt import Prompt
from services.inference.domain.routing.comparison import Compared
from services.inference.usecases.asked import Asked
from services.inference.usecases.ports import ProviderCall
from services.inference.usecases.shadow import Pair
from services.meshkit.calls.ports import Clearance, DispatchedHold, PendingSettlement, Settlement
from services.meshkit.content import (
    CallContext,
    CallId,
    CallKey,
    Integrity,
    Label,
    Message,
    MessageRole,
    Part,
    TextPart,
    Usage,
    text_of,
    text_part,
)
from services.meshkit.content.law import RuleOutcome, Subject, Verdict
from services.meshkit.core.errors import Exhausted, Precondition
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import TENANT

USER = Label(integrity=Integrity.USER, sources=frozenset({"user:anna"}))
ANNA = Principal(tenant=TENANT, subject="key_anna", roles=frozenset({Role.TENANT_USER}), token=Secret("token-of-anna"))

OPENAI = DeploymentVersion(name="openai/gpt-test", adapter=Adapter.OPENAI, model="gpt-test")
ANTHROPIC = DeploymentVersion(name="anthropic/claude-test", adapter=Adapter.ANTHROPIC, model="claude-test")
LOCAL = DeploymentVersion(name="local/small", adapter=Adapter.LOCAL, model="small")
STUB = DeploymentVersion(name="stub", adapter=Adapter.STUB, model="stub", in_default_chain=False)


def a_message(text: str = "Should cities ban cars?", role: MessageRole = MessageRole.USER, **changes: Any) -> Message:
    return Message(role=role, parts=(text_part(text, changes.pop("label", USER)),), **changes)


def a_prompt(*texts: str, **changes: Any) -> Prompt:
    messages = tuple(a_message(text) for text in texts) or (a_message(),)
    values: dict[str, Any] = {"messages": messages, "max_output_tokens": 64, **changes}
    return Prompt(**values)


def a_context(path: str = "rounds/1/Athena", **changes: Any) -> CallContext:
    return CallContext(call_id=CallId(run_id="run_1", path=path), **changes)


def an_asked(prompt: Prompt | None = None, **changes: Any) -> Asked:
    values: dict[str, Any] = {
        "principal": ANNA,
        "context": a_context(),
        "model": "default",
        "prompt": prompt or a_prompt(),
        "repeatable": True,
        "deadline": 60.0,
    }
    return Asked(**{**values, **changes})


def a_provider_call(
    deployment: DeploymentVersion, prompt: Prompt, clearance: Clearance, *, seconds: float = 5.0
) -> ProviderCall:
    return ProviderCall(deployment=deployment, prompt=prompt, clearance=clearance, seconds=seconds)


class FakeLaw:
    """Blocks and redacts words; remembers what it was shown."""

    def __init__(self) -> None:
        self.blocked: dict[str, str] = {}
        self.redacted: dict[str, str] = {}
        self.seen: list[Subject] = []
        self.faults = FaultQueue()
        #: Of the rules that are in force.
        self.bundle_digest = "ab" * 32

    def block(self, word: str, *, stage: str = "") -> None:
        """Blocks content with `word`, at one stage or at all."""
        self.blocked[word] = stage

    def redact(self, word: str, replacement: str) -> None:
        self.redacted[word] = replacement

    def at(self, stage: str) -> list[Subject]:
        return [subject for subject in self.seen if subject.stage == stage]

    async def evaluate(self, principal: Principal, subject: Subject) -> Verdict:
        self.faults.hit()
        self.seen.append(subject)
        text = text_of(subject.parts)
        hit = [word for word, stage in self.blocked.items() if word in text and stage in ("", subject.stage)]
        parts = tuple(self._redact(part) for part in subject.parts)
        changed = parts != subject.parts
        status = "block" if hit else "redact" if changed else "pass"
        return Verdict(
            id=f"verdict_{len(self.seen)}",
            allowed=not hit,
            rules=(RuleOutcome(rule="words", status=status, elapsed_us=7, stage=subject.stage),),
            parts=parts if changed else (),
            bundle_digest=self.bundle_digest,
            bundle="words@1.0.0",
        )

    def _redact(self, part: Part) -> Part:
        if not isinstance(part.content, TextPart):
            return part
        text = part.content.text
        for word, replacement in self.redacted.items():
            text = text.replace(word, replacement)
        return replace(part, content=TextPart(text))


@dataclass
class FakeHold:
    """A hold as the fake ledger keeps it."""

    id: str
    task: Task
    provider: str
    model: str
    bound: Usage
    context: CallContext
    ttl: timedelta
    cheapest: bool = False
    #: reserved, dispatched, settled or released.
    state: str = "reserved"
    usage: Usage | None = None


class BudgetExhausted(Exhausted):
    reason = "BUDGET_EXHAUSTED_IN_TEST"


class BudgetDegrades(Exhausted):
    reason = "BUDGET_DEGRADES"


class PriceUnknown(Precondition):
    reason = "PRICE_UNKNOWN"


class FakeHolds:
    """A ledger in memory: one nano-USD a token, refuses what a real one refuses."""

    def __init__(self, *, limit: int = 10**9) -> None:
        self.holds: dict[str, FakeHold] = {}
        self.limit = limit
        self.unpriced: set[str] = set()
        #: True when a budget lets only the cheapest through.
        self.degrades = False
        #: Models from whose call on it does.
        self.degrading: set[str] = set()
        self.tokens: list[str] = []
        self.reserving, self.settling, self.releasing = FaultQueue(), FaultQueue(), FaultQueue()

    @property
    def states(self) -> list[str]:
        return [hold.state for hold in self.holds.values()]

    @property
    def charged(self) -> int:
        return sum(hold.usage.total for hold in self.holds.values() if hold.usage is not None)

    async def hold(self, principal: Principal, context: CallContext, **order: Any) -> DispatchedHold:
        self.reserving.hit()
        if order["model"] in self.unpriced:
            raise PriceUnknown("no price")
        self.degrades = self.degrades or order["model"] in self.degrading
        if self.degrades and not order["cheapest"]:
            raise BudgetDegrades("only the cheapest")
        held = sum(hold.bound.total for hold in self.holds.values() if hold.state in ("reserved", "dispatched"))
        if self.charged + held + order["bound"].total > self.limit:
            raise BudgetExhausted("the budget is used up")
        hold = FakeHold(id=f"hold_{len(self.holds) + 1}", context=context, **order)
        self.holds[hold.id] = hold
        self._move(hold.id, "dispatched", allowed={"reserved"})
        return DispatchedHold(id=hold.id, amount=NanoUsd(hold.bound.total))

    async def settle(self, principal: Principal, hold_id: str, usage: Usage | None) -> NanoUsd:
        assert usage is not None, "models have no fixed price"
        self.settling.hit()
        self.tokens.append(principal.token.reveal())
        self._move(hold_id, "settled", allowed={"dispatched", "settled"})
        hold = self.holds[hold_id]
        assert hold.usage in (None, usage), "settled twice, and differently"
        hold.usage = usage
        return NanoUsd(usage.total)

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        self.releasing.hit()
        allowed = {"reserved", "released"} | ({"dispatched"} if dispatched_unbilled else set[str]())
        self._move(hold_id, "released", allowed=allowed)

    def _move(self, hold_id: str, state: str, *, allowed: set[str]) -> None:
        hold = self.holds[hold_id]
        assert hold.state in allowed, f"{hold_id} is {hold.state}, not {allowed}"
        hold.state = state


class FakePrices:
    """What deployments cost, by name: so much for a token in and out."""

    def __init__(self, rates: Mapping[str, int]) -> None:
        self.by_name = dict(rates)

    async def priced(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> frozenset[str]:
        return frozenset(await self.rates(principal, deployments))

    async def rates(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> dict[str, TokenRates]:
        del principal
        known = {one.full_name: self.by_name[one.full_name] for one in deployments if one.full_name in self.by_name}
        return {name: TokenRates(input=rate, output=rate) for name, rate in known.items()}


class MemoryCallStore:
    """Calls in memory, with the rules of the real table."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        #: Which replica asks, and how long others wait for it.
        self.replica, self.claim_seconds = "replica_1", 10.0
        self.hashes: dict[CallKey, bytes] = {}
        self.calls: dict[CallKey, tuple[RecordedCall, Secret, datetime]] = {}
        #: By whom and until when calls are claimed that were not given back, and how often each was lost.
        self.claimed: dict[CallKey, tuple[str, datetime]] = {}
        self.acknowledged: dict[CallKey, datetime] = {}
        #: How much longer calls of runs are kept that nobody acknowledges.
        self.unacknowledged = timedelta(0)
        self.lost: dict[CallKey, int] = {}
        self.recording, self.judging, self.marking = FaultQueue(), FaultQueue(), FaultQueue()
        self.giving_back, self.extending = FaultQueue(), FaultQueue()

    def beside(self, replica: str, *, claim_seconds: float = 10.0) -> "MemoryCallStore":
        """Gives the same calls as another replica sees them."""
        other = copy(self)
        other.replica, other.claim_seconds = replica, claim_seconds
        return other

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | Claimed:
        if self.hashes.setdefault(key, arguments_hash) != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        if key in self.calls:
            return self.calls[key][0]
        if key in self.claimed:
            replica, until = self.claimed[key]
            if replica != self.replica and until > self._clock.now():
                raise CallInProgress(key.call_id, retry_after=timedelta(seconds=1))
            self.lost[key] = self.lost.get(key, 0) + 1
        self._hold(key, self.claim_seconds)
        return Claimed(lost_attempts=self.lost.get(key, 0))

    async def give_back(self, key: CallKey) -> None:
        self.giving_back.hit()
        if self._is_mine(key):
            del self.claimed[key]

    async def extend_claims(self, keys: Sequence[CallKey]) -> None:
        self.extending.hit()
        for key in filter(self._is_mine, keys):
            self._hold(key, self.claim_seconds)

    async def free_claims(self, keys: Sequence[CallKey]) -> None:
        self.extending.hit()
        for key in filter(self._is_mine, keys):
            self._hold(key, 0.0)

    def _is_mine(self, key: CallKey) -> bool:
        return key not in self.calls and key in self.claimed and self.claimed[key][0] == self.replica

    def _hold(self, key: CallKey, seconds: float) -> None:
        self.claimed[key] = self.replica, self._clock.now() + timedelta(seconds=seconds)

    async def acknowledge(self, keys: Sequence[CallKey]) -> None:
        for key in keys:
            self.acknowledged.setdefault(key, self._clock.now())

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        self.recording.hit()
        self.hashes.setdefault(recorded.key, recorded.arguments_hash)
        if recorded.key not in self.calls:
            self.calls[recorded.key] = (recorded, token, self._clock.now())
        return self.calls[recorded.key][0]

    async def judge(self, recorded: RecordedCall) -> RecordedCall:
        self.judging.hit()
        standing, token, when = self.calls[recorded.key]
        if isinstance(standing.outcome, Unjudged) and standing.hold_id == recorded.hold_id:
            self.calls[recorded.key] = (replace(standing, outcome=recorded.outcome), token, when)
        return self.calls[recorded.key][0]

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        self.marking.hit()
        for one in settlements:
            call, _, when = self.calls.get(one.key, (None, NO_SECRET, self._clock.now()))
            if call is None or call.hold_id != one.hold_id or call.settle_state is not SettleState.PENDING:
                continue
            state = SettleState.LAPSED if one.charged is None else SettleState.SETTLED
            self.calls[one.key] = (replace(call, settle_state=state, charged=one.charged), NO_SECRET, when)

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        oldest_first = sorted(self.calls.values(), key=lambda recorded: recorded[2])
        return [
            PendingSettlement(key=call.key, hold_id=call.hold_id, usage=call.usage, token=token)
            for call, token, when in oldest_first
            if call.settle_state is SettleState.PENDING and when < before
        ][:most]

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        old = [
            key
            for key, (call, _, when) in self.calls.items()
            if self._expired(key, when, before) and call.settle_state is not SettleState.PENDING
        ][:most]
        for key in old:
            del self.calls[key]
            del self.hashes[key]
            self.claimed.pop(key, None)
            self.lost.pop(key, None)
        return len(old)

    def _expired(self, key: CallKey, recorded: datetime, before: datetime) -> bool:
        if key in self.acknowledged:
            return self.acknowledged[key] < before
        longer = self.unacknowledged if key.call_id.run_id.startswith("run_") else timedelta(0)
        return recorded < before - longer


Script = Sequence[TextDelta | Finished | BaseException]


USED = Usage(input=10, output=5)


def says(*texts: str, usage: Usage | None = USED, **changes: Any) -> Script:
    """An answer in pieces."""
    values: dict[str, Any] = {"stop_reason": StopReason.STOP, "usage": usage, "model": "answered-as"}
    return (*(TextDelta(text) for text in texts), Finished(**{**values, **changes}))


@dataclass
class ScriptedProvider:
    """Answers as it is told, in order; the last script is used again."""

    scripts: list[Script] = field(default_factory=list[Script])
    asked: list[ProviderCall] = field(default_factory=list[ProviderCall])
    #: Streams that were closed before their end.
    closed: int = 0
    #: Called before each piece, such as to wait.
    before_piece: Any = None

    async def stream(self, call: ProviderCall) -> AsyncGenerator[TextDelta | Finished]:
        self.asked.append(call)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        ended = False
        try:
            for piece in script:
                if self.before_piece is not None:
                    await self.before_piece()
                if isinstance(piece, BaseException):
                    raise piece
                ended = isinstance(piece, Finished)
                yield piece
        finally:
            if not ended:
                self.closed += 1

    async def whole(self, call: ProviderCall) -> Whole:
        text = ""
        async for piece in self.stream(call):
            if isinstance(piece, Finished):
                return Whole(text=text, finished=piece)
            text += piece.text
        raise ProviderUnavailable("it broke off", deployment="test", charge=Charge.UNKNOWN)


class ScriptedModels:
    """Implements `OpenModels` by adapter."""

    def __init__(self, providers: Mapping[str, ScriptedProvider]) -> None:
        self._providers = providers

    def provider(self, version: DeploymentVersion) -> ScriptedProvider:
        return self._providers[version.adapter]


def failing(error: type[Any], charge: Charge | Usage = Charge.NOTHING, *texts: str) -> Script:
    """An attempt that fails after these pieces."""
    return (*(TextDelta(text) for text in texts), error("it failed", deployment="test", charge=charge))


class MemoryComparisons:
    """A `ComparisonRecords`."""

    def __init__(self) -> None:
        self.found: dict[Pair, Compared] = {}
        self.faults = FaultQueue()

    async def add(self, found: Sequence[tuple[Pair, Compared]]) -> None:
        self.faults.hit()
        for pair, one in found:
            self.found[pair] = self.found.get(pair, Compared()).plus(one)

    async def of(self, tenant: TenantId, route: str) -> Sequence[tuple[Pair, Compared]]:
        return [(pair, one) for pair, one in self.found.items() if (pair.tenant, pair.route) == (tenant, route)]
