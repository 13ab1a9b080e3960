"""Judges subjects under the law of their tenants, and records what broke it before anybody hears of it."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from services.meshkit.batching.threads import Threads
from services.meshkit.content import Part
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.telemetry import names
from services.meshkit.telemetry.tracing import Recorded, span
from services.policy.domain.bundle import NamedBundle
from services.policy.domain.subject import Stage, Subject
from services.policy.domain.verdict import Judgement, RuleResult, Verdict
from services.policy.domain.violation import Violation
from services.policy.rules.texts import size_of
from services.policy.usecases.laws import Law, Laws
from services.policy.usecases.record_violations import RecordViolations

#: Content up to this size, bytes, is judged on the loop by a shipped bundle, for a thread would cost more. What tenants
#: write themselves is always judged on threads: nobody can tell beforehand how long their expressions take.
_INLINE_BYTES: Final = 64 * 1024
#: Content that shares a thread job with others of its law, bytes.
_JOB_BYTES: Final = 256 * 1024
#: The loop is given back after this long, seconds.
_SLICE_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One subject and whose law it is under."""

    tenant: TenantId
    subject: Subject
    #: Judges in place of the tenant's law, which what leaves the mesh is held to as well; None: the law alone.
    bundle: NamedBundle | None = None
    #: W3C trace context, empty without one.
    traceparent: str = ""


#: What became of a question.
Answer = Verdict | MeshError


class Evaluate:
    """Answers questions, each by itself: what fails for one does not touch the others."""

    def __init__(
        self,
        *,
        laws: Laws,
        record: RecordViolations,
        threads: Threads,
        slow_threads: Threads,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._laws = laws
        self._record = record
        self._threads = threads
        self._slow_threads = slow_threads
        self._clock = clock
        self._ids = ids

    async def one(self, question: Question) -> Verdict:
        """Answers one question.

        Raises: NoBundle; BundleNotFound, BundleDiffers: of the bundle that it names; MeshError: a violation could not
            be recorded, so there is no verdict.
        """
        if question.bundle is not None:
            return await self._under(question, question.bundle)
        law = self._laws.peek(question.tenant) or await self._laws.of(question.tenant)
        if law.shipped and _size_of(question.subject) <= _INLINE_BYTES:
            verdict = self._judged(question, law)
        else:
            (verdict,) = await self._judged_aside([question], law)
        if verdict.judgement.matched:
            await self._record(self._violations(question, verdict), question.subject)
        return verdict

    async def many(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Answers the questions of a frame, in order."""
        named = [question for question in questions if question.bundle is not None]
        if not named:
            return await self._under_law(questions)
        lawful = [question for question in questions if question.bundle is None]
        async with asyncio.TaskGroup() as tasks:
            by_bundle = tasks.create_task(self._under_named(named))
            by_law = tasks.create_task(self._under_law(lawful))
        of_named, of_lawful = iter(by_bundle.result()), iter(by_law.result())
        return [next(of_lawful if question.bundle is None else of_named) for question in questions]

    async def _under_law(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Answers questions that name no bundle, in order."""
        laws = await self._laws_of({question.tenant for question in questions})
        answers: dict[int, Answer] = {}
        jobs: dict[str, _Jobs] = {}
        sliced = self._clock.monotonic()
        for index, question in enumerate(questions):
            law = laws[question.tenant]
            if isinstance(law, MeshError):
                answers[index] = law
                continue
            size = _size_of(question.subject)
            if not law.shipped or size > _INLINE_BYTES:
                jobs.setdefault(law.reference + law.digest, _Jobs(law)).add(index, size)
                continue
            answers[index] = self._judged(question, law)
            if self._clock.monotonic() - sliced > _SLICE_SECONDS:
                await asyncio.sleep(0)
                sliced = self._clock.monotonic()
        if jobs:
            await self._judge_aside(questions, jobs.values(), answers)
        await self._record_all(questions, answers)
        return [answers[index] for index in range(len(questions))]

    async def _laws_of(self, tenants: Iterable[TenantId]) -> dict[TenantId, Law | MeshError]:
        laws: dict[TenantId, Law | MeshError] = {}
        missing: list[TenantId] = []
        for tenant in tenants:
            law = self._laws.peek(tenant)
            if law is None:
                missing.append(tenant)
            else:
                laws[tenant] = law
        if not missing:
            return laws

        async def load(tenant: TenantId) -> None:
            try:
                laws[tenant] = await self._laws.of(tenant)
            except MeshError as error:
                laws[tenant] = error

        async with asyncio.TaskGroup() as tasks:
            for tenant in missing:
                tasks.create_task(load(tenant))
        return laws

    async def _judge_aside(
        self, questions: Sequence[Question], jobs: Iterable["_Jobs"], answers: dict[int, Answer]
    ) -> None:
        async def judge(law: Law, indices: Sequence[int]) -> None:
            try:
                verdicts = await self._judged_aside([questions[index] for index in indices], law)
            except MeshError as error:
                answers.update(dict.fromkeys(indices, error))
            else:
                answers.update(zip(indices, verdicts, strict=True))

        async with asyncio.TaskGroup() as tasks:
            for of_law in jobs:
                for indices in of_law.groups:
                    tasks.create_task(judge(of_law.law, indices))

    async def _under_named(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Answers questions that name a bundle, in order, each by itself: there are few of them."""

        async def answer(question: Question) -> Answer:
            try:
                return await self.one(question)
            except MeshError as error:
                return error

        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(answer(question)) for question in questions]
        return [task.result() for task in answers]

    async def _under(self, question: Question, bundle: NamedBundle) -> Verdict:
        """Judges by a bundle that need not be law; what leaves the mesh by the law first, which nobody loosens so."""
        named = await self._laws.named(question.tenant, bundle)
        before: tuple[RuleResult, ...] = ()
        parts: tuple[Part, ...] | None = None
        if question.subject.stage is Stage.BEFORE:
            lawful = await self._recorded(question, await self._laws.of(question.tenant))
            if not lawful.judgement.allowed:
                return lawful
            before, parts = lawful.judgement.results, lawful.judgement.parts
            if parts is not None:
                question = replace(question, subject=replace(question.subject, parts=parts))
        verdict = await self._recorded(question, named)
        judged = verdict.judgement
        kept = parts if judged.parts is None else judged.parts
        return replace(verdict, judgement=replace(judged, results=(*before, *judged.results), parts=kept))

    async def _recorded(self, question: Question, law: Law) -> Verdict:
        (verdict,) = await self._judged_aside([question], law)
        if verdict.judgement.matched:
            await self._record(self._violations(question, verdict), question.subject)
        return verdict

    async def _record_all(self, questions: Sequence[Question], answers: dict[int, Answer]) -> None:
        matched = [
            (index, answer)
            for index, answer in answers.items()
            if isinstance(answer, Verdict) and answer.judgement.matched
        ]
        if not matched:
            return

        async def record(index: int, verdict: Verdict) -> None:
            try:
                await self._record(self._violations(questions[index], verdict), questions[index].subject)
            except MeshError as error:
                answers[index] = error

        async with asyncio.TaskGroup() as tasks:
            for index, verdict in matched:
                tasks.create_task(record(index, verdict))

    def _judged(self, question: Question, law: Law) -> Verdict:
        with _monitored(question, law):
            return self._verdict(law.compiled.judge(question.subject, timer=self._clock.monotonic), law)

    async def _judged_aside(self, questions: Sequence[Question], law: Law) -> list[Verdict]:
        timer = self._clock.monotonic

        def judge() -> list[Judgement]:
            judgements: list[Judgement] = []
            for question in questions:
                with _monitored(question, law):
                    judgements.append(law.compiled.judge(question.subject, timer=timer))
            return judgements

        threads = self._slow_threads if law.compiled.slow else self._threads
        judgements = await threads.run(partial(copy_context().run, judge))
        return [self._verdict(judgement, law) for judgement in judgements]

    def _verdict(self, judgement: Judgement, law: Law) -> Verdict:
        return Verdict(id=self._ids.new("verdict"), judgement=judgement, bundle_digest=law.digest, bundle=law.reference)

    def _violations(self, question: Question, verdict: Verdict) -> tuple[Violation, ...]:
        subject = question.subject
        call = subject.context.call_id
        now = self._clock.now()
        return tuple(
            Violation(
                id=self._ids.uuid(),
                tenant=question.tenant,
                verdict_id=verdict.id,
                rule=result.rule,
                severity=result.severity,
                action=result.action,
                stage=subject.stage,
                operation=subject.operation,
                rationale=result.rationale,
                run_id=call.run_id if call.run_id.startswith("run_") else "",
                path=call.path,
                agent_name=subject.context.agent_name,
                bundle=verdict.bundle,
                created=now,
            )
            for result in verdict.judgement.matched
            if result.action is not None
        )


class _Jobs:
    """Questions of a frame under one law, in groups that each take a thread for a short while."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.groups: list[list[int]] = []
        self._room = 0

    def add(self, index: int, size: int) -> None:
        """Puts a question into the last group, or into one of its own."""
        if not self.groups or size > self._room:
            self.groups.append([])
            self._room = _JOB_BYTES
        self.groups[-1].append(index)
        self._room -= size


def _size_of(subject: Subject) -> int:
    return sum(size_of(part) for part in subject.parts)


def _monitored(question: Question, law: Law) -> AbstractContextManager[Recorded]:
    return span(
        names.SPAN_MONITOR,
        traceparent=question.traceparent,
        attributes=lambda: {
            names.ATTRIBUTE_STAGE: question.subject.stage.name,
            names.ATTRIBUTE_JUDGED: question.subject.operation.name,
            names.ATTRIBUTE_BUNDLE: law.reference,
        },
    )
