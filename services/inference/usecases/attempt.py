"""One attempt at one deployment: law before and money, then the provider. Each attempt has a hold of its own."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.inference.domain.answer import WITHHELD, AttemptNote, Finished, ReasoningDelta, TextDelta
from services.inference.domain.deployment import DeploymentVersion, Task
from services.inference.domain.errors import Charge, OutputInvalid, ProviderFailure, ProviderUnavailable
from services.inference.domain.law import on_messages, raise_if_blocked
from services.inference.domain.media import media_bytes
from services.inference.domain.output_format import Violation, conform
from services.inference.domain.prompt import Prompt
from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.domain.text_gate import TextGate
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.ports import HoldClient, ModelProvider, ProviderCall
from services.meshkit.calls.ports import Clearance, DispatchedHold, LawGate
from services.meshkit.content import MAX_ARGUMENT_LEVELS, Label, Part, Usage, nests_deeper, text_of, text_part
from services.meshkit.content.law import RuleOutcome, Stage, Subject, Verdict
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import DeadlineExceeded, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: A hold outlives the deadline of its call by this long: time to record and settle.
_HOLD_MARGIN_SECONDS: Final = 60.0
_HOLD_MOST_SECONDS: Final = 3600.0
#: Share of the time that is left which an answer may take that nobody sees coming, while others could still answer.
_SHARE_UNSEEN: Final = 0.5
#: Pictures and documents of more bytes are hashed on a thread, to be named to the law.
_HASHED_ON_THE_LOOP: Final = 256 * 1024
#: No token is longer: text beyond so many for each that may be answered comes from a model that does not end.
_MOST_CHARACTERS_PER_TOKEN: Final = 256

AFTER_RESERVE: Final = "inference.after_reserve"
AFTER_ANSWER: Final = "inference.after_answer"
register(AFTER_RESERVE, AFTER_ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """What a provider answered, before the law has seen the whole of it."""

    deployment: DeploymentVersion
    hold: DispatchedHold
    before: Verdict
    #: Outcomes of rules that did something while the answer streamed.
    during: tuple[RuleOutcome, ...]
    during_verdict_ids: tuple[str, ...]
    parts: tuple[Part, ...]
    finished: Finished
    provider_us: int
    first_byte_us: int
    gate: TextGate


async def judged_before(
    asked: Asked, deployment: DeploymentVersion, *, law: LawGate, prompt: Prompt | None = None
) -> Verdict:
    """Has what would be sent to a deployment judged: the prompt of the call, or another one in its place."""
    sent = prompt or asked.prompt
    bound = asked.bound(deployment, sent)
    subject = Subject(
        stage=Stage.BEFORE,
        parts=await _shown_to_law(sent),
        measures={"input_tokens_bound": bound.input, "max_output_tokens": bound.output},
        context=asked.context,
        target=deployment.model,
    )
    return on_messages(await law.evaluate(asked.principal, subject), sent.beside)


async def _shown_to_law(prompt: Prompt) -> tuple[Part, ...]:
    if sum(map(media_bytes, prompt.parts)) <= _HASHED_ON_THE_LOOP:
        return prompt.shown_to_law()
    return await asyncio.to_thread(prompt.shown_to_law)


class Attempt:
    """Asks one deployment once.

    Args:
        prompt: what is sent; that of the call, unless an answer is to be repaired, or the text of another continued.
        shown: text that another deployment began with, and that was released; this one continues it.
        alone: True when nobody else could answer if this one does not.
        cheapest: True when the caller's budget lets only the cheapest through, and this is what is left.
        before: `judged_before` on the same call for the same deployment, if that was begun already.
    """

    def __init__(
        self,
        asked: Asked,
        candidate: Candidate,
        provider: ModelProvider,
        *,
        law: LawGate,
        holds: HoldClient,
        clock: Clock,
        prompt: Prompt | None = None,
        shown: str = "",
        alone: bool = True,
        cheapest: bool = False,
        before: Awaitable[Verdict] | None = None,
    ) -> None:
        self._asked = asked
        self._deployment = candidate.version
        self._hop = candidate.hop
        self._provider = provider
        self._prompt = prompt or asked.prompt
        self._shown = shown
        self._alone = alone
        self._law = law
        self._holds = holds
        self._clock = clock
        self._cheapest = cheapest
        self._before = before
        self._gate = TextGate(shown)
        self._during: list[RuleOutcome] = []
        self._during_verdict_ids: list[str] = []
        self._hold_id = ""
        self._usage_known = True
        self._sent_ns = self._first_ns = self._ended_ns = 0
        #: Set when the provider is asked.
        self.sent = asyncio.Event()

    @property
    def released(self) -> str:
        """All text that the caller has seen when this attempt ends, what it continues included."""
        return self._gate.released

    @property
    def answers(self) -> bool:
        """True once something came of the provider's answer. One that comes in one piece comes with its end."""
        return self._first_ns > 0

    def note(self, reason: str) -> AttemptNote:
        """Says what became of the attempt.

        Args:
            reason: why it failed; empty: it answered.
        """
        return AttemptNote(
            deployment=self._deployment.name,
            version=self._deployment.version,
            hold_id=self._hold_id,
            reason=reason,
            usage_known=self._usage_known,
            provider_us=(self._ended_ns - self._sent_ns) // 1000,
        )

    def outcome(self, reason: str, *, retry_after: timedelta | None) -> AttemptOutcome:
        """Says the same to those who learn from it."""
        return AttemptOutcome(
            reason=reason,
            latency_us=(self._ended_ns - self._sent_ns) // 1000,
            first_byte_us=self._first_byte_us if self._first_ns else None,
            retry_after_seconds=None if retry_after is None else retry_after.total_seconds(),
            hold_id=self._hold_id,
        )

    @property
    def _first_byte_us(self) -> int:
        return max(self._first_ns - self._sent_ns, 0) // 1000

    async def run(self, release: Release | None) -> RawAnswer:
        """Makes the attempt.

        Args:
            release: shows text while it comes, once the law has passed it; None to wait for the whole answer.
        Raises: ProviderFailure, after its hold was dealt with; LawBlocked; what law and money raise.
        """
        async with self._cleared() as (prompt, before, clearance):
            label = self._prompt.label(model=self._deployment.model)
            self._sent_ns = self._ended_ns = time.perf_counter_ns()
            self.sent.set()
            try:
                finished = await self._receive(prompt, clearance, label, release)
            finally:
                self._ended_ns = time.perf_counter_ns()
            self._usage_known = finished.usage is not None
            self._hold_to_form(finished)
            await failpoint(AFTER_ANSWER)
            return RawAnswer(
                deployment=self._deployment,
                hold=clearance.hold,
                before=before,
                during=tuple(self._during),
                during_verdict_ids=tuple(self._during_verdict_ids),
                parts=_parts(self._gate.text, finished, label),
                finished=finished,
                provider_us=(self._ended_ns - self._sent_ns) // 1000,
                first_byte_us=self._first_byte_us,
                gate=self._gate,
            )

    @asynccontextmanager
    async def _cleared(self) -> AsyncGenerator[tuple[Prompt, Verdict, Clearance]]:
        """Gets law, then money, for what is sent, and deals with the hold when the attempt fails."""
        before = self._before or judged_before(self._asked, self._deployment, law=self._law, prompt=self._prompt)
        verdict = await before
        raise_if_blocked(verdict, Stage.BEFORE)
        prompt = self._prompt.as_law_left(verdict.parts)
        hold = await self._hold(self._asked.bound(self._deployment, prompt))
        self._hold_id = hold.id
        sent = False
        try:
            await failpoint(AFTER_RESERVE)
            sent = True
            yield prompt, verdict, Clearance(hold=hold, verdict_id=verdict.id)
        except ProviderFailure as failure:
            self._usage_known = failure.charge is not Charge.UNKNOWN
            await finish(self._pay(hold, failure.charge))
            raise
        except BaseException:
            # Not sent: the money is free again. Sent and broken off: nobody knows, so the bound is charged.
            self._usage_known = not sent
            await finish(self._pay(hold, Charge.UNKNOWN if sent else Charge.NOTHING))
            raise

    async def _hold(self, bound: Usage) -> DispatchedHold:
        seconds = min(self._seconds_left() + _HOLD_MARGIN_SECONDS, _HOLD_MOST_SECONDS)
        return await self._holds.hold(
            self._asked.principal,
            self._asked.context,
            task=Task.GENERATE,
            provider=self._deployment.payee,
            model=self._deployment.model,
            bound=bound,
            ttl=timedelta(seconds=seconds),
            cheapest=self._cheapest,
        )

    async def _receive(self, prompt: Prompt, clearance: Clearance, label: Label, release: Release | None) -> Finished:
        """Takes the answer in. The law reads along beside it: it never keeps the provider waiting.

        What has not been released when the answer is whole is left to the verdict on the whole.
        """
        call = self._call(prompt, clearance)
        finished = await (self._take_whole(call) if release is None else self._take_stream(call, label, release))
        if finished is None:
            raise self._failed("ended without an answer", Charge.UNKNOWN)
        says_nothing = not self._gate.text[len(self._shown) :].strip() and not finished.tool_calls
        if says_nothing and finished.stop_reason not in WITHHELD:
            raise self._failed("answered with nothing", finished.usage or Charge.UNKNOWN)
        # Whatever adapter was asked: none of it would reach the law.
        if any(nests_deeper(call.arguments, MAX_ARGUMENT_LEVELS) for call in finished.tool_calls):
            raise self._failed("nests arguments of a tool too deep", finished.usage or Charge.UNKNOWN)
        return finished

    async def _take_whole(self, call: ProviderCall) -> Finished:
        """Takes an answer that nobody watches: in one piece, which costs the least."""
        if not self._alone:
            call = replace(call, seconds=call.seconds * _SHARE_UNSEEN)
        answer = await self._provider.whole(call)
        self._gate.add(answer.text)
        return answer.finished

    async def _take_stream(self, call: ProviderCall, label: Label, release: Release) -> Finished | None:
        finished: Finished | None = None
        most = call.prompt.max_output_tokens * _MOST_CHARACTERS_PER_TOKEN + len(self._shown)
        stream = self._provider.stream(call)
        showing: asyncio.Task[None] | None = None
        try:
            async with aclosing(stream):
                async for piece in stream:
                    self._first_ns = self._first_ns or time.perf_counter_ns()
                    if isinstance(piece, Finished):
                        finished = piece
                        break
                    if isinstance(piece, ReasoningDelta):
                        continue
                    self._gate.add(piece.text)
                    if len(self._gate.text) > most:
                        raise self._failed("does not end its answer", Charge.UNKNOWN)
                    if showing is not None and not showing.done():
                        continue
                    if showing is not None:
                        showing.result()
                    text = self._gate.due()
                    if text is not None:
                        showing = asyncio.create_task(self._show(text, label, release), name="law during")
        finally:
            if showing is not None:
                await _ended(showing)
        return finished

    def _call(self, prompt: Prompt, clearance: Clearance) -> ProviderCall:
        return ProviderCall(
            deployment=self._deployment,
            prompt=prompt,
            clearance=clearance,
            seconds=self._seconds_left(),
            first_byte_seconds=self._hop.first_byte_seconds,
            between_seconds=self._hop.between_seconds,
        )

    def _failed(self, what: str, charge: Charge | Usage) -> ProviderUnavailable:
        return ProviderUnavailable(f"{self._deployment.name} {what}", charge=charge, deployment=self._deployment.name)

    def _hold_to_form(self, finished: Finished) -> None:
        """Keeps of the text what has the wanted form.

        Raises: OutputInvalid: it does not have it. Neither a call of a tool nor an answer that was withheld needs to.
        """
        if finished.tool_calls or finished.stop_reason in WITHHELD:
            return
        kept = conform(self._gate.text, self._prompt.output_format)
        if isinstance(kept, Violation):
            raise OutputInvalid(
                self._deployment.name,
                place=kept.place,
                rule=kept.rule,
                answer=self._gate.text,
                charge=finished.usage or Charge.UNKNOWN,
            )
        self._gate.text = kept.text

    async def _show(self, text: str, label: Label, release: Release) -> None:
        """Releases what is due, if the law passes all of the text so far. A blocking verdict ends the attempt."""
        subject = Subject(
            stage=Stage.DURING,
            parts=(text_part(text, label),),
            context=self._asked.context,
            target=self._deployment.model,
        )
        verdict = await self._law.evaluate(self._asked.principal, subject)
        acted = [outcome for outcome in verdict.rules if outcome.status != "pass"]
        if acted:
            self._during = acted
            self._during_verdict_ids.append(verdict.id)
        raise_if_blocked(verdict, Stage.DURING)
        fresh = self._gate.passed(text_of(verdict.parts) if verdict.parts else text)
        if fresh:
            release(TextDelta(fresh))

    async def settle(self, raw: RawAnswer) -> None:
        """Pays for an answer that nobody is given. A usage that nobody knows stays with its hold, as `assumed`."""
        if raw.finished.usage is not None:
            await self._pay(raw.hold, raw.finished.usage)

    async def _pay(self, hold: DispatchedHold, charge: Charge | Usage) -> None:
        """Deals with the hold of a failed attempt. While cost is down, the hold expires by itself, on the safe side."""
        principal = self._asked.principal
        try:
            if isinstance(charge, Usage):
                await self._holds.settle(principal, hold.id, charge)
            elif charge is Charge.NOTHING:
                await self._holds.release(principal, hold.id, dispatched_unbilled=True)
        except MeshError as error:
            log.warning("a failed attempt's hold is left to expire", hold_id=hold.id, error=error.message)
        except Exception:
            # A fault of ours must not hide why the attempt failed.
            log.exception("a failed attempt's hold is left to expire", hold_id=hold.id)

    def _seconds_left(self) -> float:
        left = self._asked.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time of this call is used up")
        return left


async def _ended(showing: asyncio.Task[None]) -> None:
    """Stops what shows text, and waits for it. Raises: what the law said, unless the attempt itself is being stopped.

    Not by `await showing`: it tells nobody whether the task is stopped or the one that waits for it.
    """
    showing.cancel()
    await asyncio.wait((showing,))
    failure = None if showing.cancelled() else showing.exception()
    attempt = asyncio.current_task()
    if failure is not None and not (attempt is not None and attempt.cancelling()):
        raise failure


def _parts(text: str, finished: Finished, label: Label) -> tuple[Part, ...]:
    texts = (text_part(text, label),) if text else ()
    return (*texts, *(Part(call, label) for call in finished.tool_calls))
