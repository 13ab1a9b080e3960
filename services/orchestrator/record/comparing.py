"""Compares two runs step by step: what they were given, said and cost, which rules spoke, and how long it took."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from hashlib import blake2b
from itertools import chain, islice
from typing import Final

from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.orchestrator.v1 import journal_pb2, record_pb2, run_pb2, session_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Usage
from services.meshkit.content.proto import usage_from_proto, usage_to_proto
from services.orchestrator.engine.dry_effects import clear
from services.orchestrator.programs.commands import MODEL_CALLS
from services.orchestrator.programs.run_view import RunProjection
from services.orchestrator.programs.similarity import jaccard, mean_pairwise_cosine, words_of
from services.orchestrator.programs.values import from_value
from services.orchestrator.record.differences import differences
from services.orchestrator.record.pins import seen_of

MOST_STEPS: Final = 200
_MOST_PINS: Final = 50
_MOST_CHANGES: Final = 20
#: Characters of a text that are shown, and that are compared word by word.
_SHOWN: Final = 4_000
_COMPARED: Final = 20_000
#: Characters of all texts of one run that are kept. Of those beyond it, only whether they are the same is told.
_KEPT: Final = 16_000_000
#: Words between the common beginning and end of two texts that are compared one by one.
_ALIGNED: Final = 400
#: Vectors kept of one run.
_MOST_VECTORS: Final = 1_000
#: What belongs to one run alone, in what it was asked for.
_OF_ITS_RUN: Final = (
    *("session_id", "run_id", "budget_id", "forked_from_run_id", "forked_at_sequence"),
    *("start_time", "end_time", "deadline_time", "parent_run_id", "parent_path", "estimate"),
    # As it is asked for, it is the topic once more.
    "topic_final",
)

#: A vector, and the model that made it: those of different models never compare.
Vector = tuple[str, Sequence[float]]


@dataclass(slots=True)
class SeenStep:
    """One step of a run, as far as two runs are compared by it."""

    side: record_pb2.StepSide = field(default_factory=record_pb2.StepSide)
    #: What it said or gave, as far as it is compared by words, and a digest of the whole.
    text: str = field(default="", repr=False)
    digest: bytes = b""
    usage: Usage = field(default_factory=Usage)
    #: True when it is recorded by its calls alone.
    alone: bool = False
    #: Nanoseconds of its first and last fact.
    began: int = 0
    ended: int = 0

    def shown(self) -> record_pb2.StepSide:
        """Gives it as callers see it."""
        self.side.text = self.text[:_SHOWN]
        self.side.usage.CopyFrom(usage_to_proto(self.usage))
        self.side.duration.FromNanoseconds(max(0, self.ended - self.began))
        return self.side


class SeenRun:
    """Gathers from the facts of a run, in order, what it is compared by."""

    def __init__(self) -> None:
        self.started = journal_pb2.RunStarted()
        self.steps: dict[str, SeenStep] = {}
        #: Embeddings that the run recorded, by their text.
        self.vectors: dict[str, Vector] = {}
        self._embeds: dict[tuple[str, int], Sequence[str]] = {}
        self._projection = RunProjection()
        self._sequence = 0
        self._began = self._ended = 0
        self._kept = 0

    def take(self, entry: journal_pb2.JournalEntry) -> None:
        """Takes the next fact. Raises: DecodeError: it holds an answer that is none."""
        self._sequence += 1
        self._projection.take(entry, self._sequence)
        now = entry.record_time.ToNanoseconds()
        self._began = self._began or now
        self._ended = now
        match entry.WhichOneof("fact"):
            case "run_started":
                self.started = entry.run_started
            case "run_forked":
                self.started = entry.run_forked.started
            case "call_intended" if entry.call_intended.kind == journal_pb2.CALL_KIND_EMBED:
                asked = inference_service_pb2.EmbedRequest.FromString(entry.call_intended.request)
                self._embeds[entry.path, entry.call_intended.call_index] = list(asked.texts)
            case "call_answered" if entry.call_answered.kind == journal_pb2.CALL_KIND_EMBED:
                self._keep_vectors(entry)
            case _:
                self._take_of_step(entry, now)

    def side(self) -> record_pb2.RunSide:
        """Gives the run as callers see it."""
        run = self._projection.run
        seen = seen_of(self.started)
        usage = Usage()
        for step in self.steps.values():
            usage = usage + step.usage
        side = record_pb2.RunSide(
            run_id=seen.run_id if isinstance(seen, run_pb2.Run) else seen.session_id,
            forked_from_run_id=seen.forked_from_run_id,
            forked_at_sequence=seen.forked_at_sequence,
            state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_"),
            state_reason=run.state_reason,
            fact_count=self._sequence,
            step_count=len(self.steps),
            cost_nano_usd=sum(step.side.cost_nano_usd for step in self.steps.values()),
            usage=usage_to_proto(usage),
        )
        side.duration.FromNanoseconds(max(0, self._ended - self._began))
        return side

    def _take_of_step(self, entry: journal_pb2.JournalEntry, now: int) -> None:
        fact = entry.WhichOneof("fact") or ""
        step = self.steps.get(entry.path)
        if step is None:
            begins = fact in ("step_started", "step_skipped", "step_completed", "step_failed")
            if not entry.path or not (begins or entry.call_intended.begins_step):
                return
            step = self.steps[entry.path] = SeenStep(began=now, alone=entry.call_intended.begins_step)
        step.ended = now
        side = step.side
        match fact:
            case "step_started":
                side.agent, side.outcome = entry.step_started.agent, ""
            case "call_intended":
                side.call_count += 1
                if entry.call_intended.kind == journal_pb2.CALL_KIND_TOOL:
                    side.tools.append(tool_service_pb2.InvokeToolRequest.FromString(entry.call_intended.request).name)
            case "call_answered":
                self._take_answer(step, entry.call_answered)
            case "step_completed":
                side.outcome = fact
                self._take_end(step, entry.step_completed)
            case "step_failed":
                side.outcome, side.reason = fact, entry.step_failed.reason
                self._keep_text(step, entry.step_failed.message)
            case "step_parked":
                side.outcome, side.reason = fact, entry.step_parked.reason
            case "step_skipped":
                side.outcome, side.reason = fact, entry.step_skipped.reason
            case _:
                pass

    def _take_answer(self, step: SeenStep, answered: journal_pb2.CallAnswered) -> None:
        side = step.side
        match answered.kind:
            case kind if kind in MODEL_CALLS:
                generation = generation_pb2.Generation.FromString(answered.response)
                side.model = f"{generation.provider}/{generation.model}"
                side.cost_nano_usd += generation.cost_nano_usd
                side.bundle_digest = generation.bundle_digest or side.bundle_digest
                step.usage = step.usage + usage_from_proto(generation.usage)
            case journal_pb2.CALL_KIND_TOOL:
                invocation = tool_service_pb2.Invocation.FromString(answered.response)
                side.cost_nano_usd += invocation.cost_nano_usd
                side.bundle_digest = invocation.bundle_digest or side.bundle_digest
            case journal_pb2.CALL_KIND_STEP | journal_pb2.CALL_KIND_RUN:
                result = journal_pb2.StepResult.FromString(answered.response)
                side.cost_nano_usd += result.cost_nano_usd
                step.usage = step.usage + usage_from_proto(result.usage)
                self._keep_text(step, _text_of(from_value(result.output)))
                if step.alone:
                    side.outcome = "call_answered"
            case _:
                pass

    def _take_end(self, step: SeenStep, completed: journal_pb2.StepCompleted) -> None:
        side = step.side
        if completed.HasField("turn"):
            turn = completed.turn
            self._keep_text(step, turn.output.content)
            side.agent = f"{turn.agent_name}@{turn.agent_version}"
            side.bundle_digest = turn.bundle_digest or side.bundle_digest
            side.verdicts.extend(_verdict_of(monitor) for monitor in turn.monitors if monitor.status != "pass")
        elif completed.HasField("output"):
            self._keep_text(step, _text_of(from_value(completed.output)))

    def _keep_text(self, step: SeenStep, text: str) -> None:
        self._kept -= len(step.text)
        step.text = text[: min(_COMPARED, _KEPT - self._kept)]
        step.digest = blake2b(text.encode(errors="surrogatepass")).digest()
        self._kept += len(step.text)

    def _keep_vectors(self, entry: journal_pb2.JournalEntry) -> None:
        answered = entry.call_answered
        texts = self._embeds.pop((entry.path, answered.call_index), ())
        answer = inference_service_pb2.EmbedResponse.FromString(answered.response)
        for text, embedding in zip(texts, answer.embeddings, strict=False):
            if len(self.vectors) < _MOST_VECTORS:
                self.vectors[text] = answer.model, list(embedding.values)


class Comparison:
    """Compares two runs of which all facts were taken."""

    def __init__(self, first: SeenRun, second: SeenRun) -> None:
        self._first = first
        self._second = second
        self._found = record_pb2.RunDifference(first=first.side(), second=second.side())
        self._found.pins.extend(differences(_pins_of(first.started), _pins_of(second.started), most=_MOST_PINS))

    def compared(self) -> Iterator[record_pb2.StepDifference]:
        """Compares step by step; gives those that differ and are listed."""
        for path in dict.fromkeys(chain(self._first.steps, self._second.steps)):
            one, other = self._first.steps.get(path), self._second.steps.get(path)
            if one is not None and other is not None and _same(one, other):
                self._found.same_step_count += 1
            elif len(self._found.steps) >= MOST_STEPS:
                self._found.omitted_step_count += 1
            else:
                yield self._add(path, one, other)

    def texts(self) -> list[tuple[record_pb2.StepDifference, str, str]]:
        """Gives the listed steps that both have with a text, and their texts."""
        return [
            (step, self._first.steps[step.path].text, self._second.steps[step.path].text)
            for step in self._found.steps
            if step.HasField("words")
        ]

    def compare_meanings(self, vectors: Mapping[str, Vector]) -> None:
        """Compares texts by meaning, of which both have a vector of the same model.

        Args:
            vectors: by text.
        """
        for step, before, after in self.texts():
            one, other = vectors.get(before), vectors.get(after)
            if one is not None and other is not None and (one[0], len(one[1])) == (other[0], len(other[1])):
                step.meaning = mean_pairwise_cosine([one[1], other[1]])

    def finish(self, *, meaning_left_out: str = "") -> record_pb2.RunDifference:
        """Gives what was found."""
        self._found.meaning_left_out = meaning_left_out
        return self._found

    def _add(self, path: str, one: SeenStep | None, other: SeenStep | None) -> record_pb2.StepDifference:
        step = self._found.steps.add(path=path)
        if one is not None:
            step.first.CopyFrom(one.shown())
        if other is not None:
            step.second.CopyFrom(other.shown())
        if one is not None and other is not None and one.text and other.text:
            step.words = _likeness(one.text, other.text)
            step.changes.extend(islice(word_changes(one.text, other.text), _MOST_CHANGES))
        return step


def word_changes(before: str, after: str) -> Iterator[record_pb2.WordChange]:
    """Gives what of the words changed, in order. Long texts are compared around their first difference."""
    left, right = before[:_COMPARED].split(), after[:_COMPARED].split()
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    left, right = left[start : len(left) - end], right[start : len(right) - end]
    one, other = left[:_ALIGNED], right[:_ALIGNED]
    for tag, begin, stop, begin_other, stop_other in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag != "equal":
            gone, come = " ".join(one[begin:stop]), " ".join(other[begin_other:stop_other])
            yield record_pb2.WordChange(before=_cut(gone), after=_cut(come))
    if len(left) > _ALIGNED or len(right) > _ALIGNED:
        gone, come = " ".join(left[_ALIGNED:]), " ".join(right[_ALIGNED:])
        yield record_pb2.WordChange(before=_cut(gone), after=_cut(come))


def _likeness(before: str, after: str) -> float:
    return 1.0 if before == after else jaccard(words_of(before[:_COMPARED]), words_of(after[:_COMPARED]))


def _same(one: SeenStep, other: SeenStep) -> bool:
    """Whether two steps are the same, but for their times."""
    left, right = record_pb2.StepSide(), record_pb2.StepSide()
    for side, step in ((left, one), (right, other)):
        side.CopyFrom(step.shown())
        side.ClearField("duration")
    return left == right and one.digest == other.digest


def _verdict_of(monitor: session_pb2.MonitorResult) -> str:
    return f"{monitor.stage} {monitor.name}: {monitor.status}"


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _pins_of(started: journal_pb2.RunStarted) -> journal_pb2.RunStarted:
    """Gives what a run pinned, without what belongs to it alone."""
    pins = journal_pb2.RunStarted()
    pins.CopyFrom(started)
    pins.ClearField("grant_id")
    pins.ClearField("fork")
    clear(seen_of(pins), _OF_ITS_RUN)
    for agent in pins.agents:
        # What they are digests of is compared itself.
        agent.ClearField("digest")
        agent.ClearField("create_time")
    pins.workflow.ClearField("digest")
    pins.workflow.ClearField("create_time")
    return pins
