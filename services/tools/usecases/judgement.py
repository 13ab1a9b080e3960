"""Has what goes to a tool and what comes from it judged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.meshkit.calls.ports import LawGate
from services.meshkit.content import CallContext, Part, ToolCallPart, text_of, text_part
from services.meshkit.content.law import Stage, Subject, Verdict
from services.meshkit.core.identity import Principal
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.invocation import Blocked, Invocation, ToolOutput
from services.tools.domain.law import raise_if_blocked
from services.tools.domain.live_text import LiveText
from services.tools.domain.tool import Tool
from services.tools.usecases.asked import Asked
from services.tools.usecases.calls_in_flight import Release
from services.tools.usecases.ports import Show


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A call that may leave: its tool is chosen, and the law has passed its arguments."""

    asked: Asked
    tool: Tool
    #: As the law leaves them.
    arguments: Mapping[str, object]
    before: Verdict

    @property
    def principal(self) -> Principal:
        """Who calls."""
        return self.asked.principal

    @property
    def context(self) -> CallContext:
        """What travels with the call."""
        return self.asked.context


class Judgement:
    """Asks the law about arguments before, text during and results after a call."""

    def __init__(self, *, law: LawGate, schemas: CompiledSchemas) -> None:
        self._law = law
        self._schemas = schemas

    async def arguments(self, asked: Asked, tool: Tool) -> Run:
        """Passes the arguments on as the law leaves them.

        Raises: LawBlocked; ToolArgumentsWrong: what the law left does not fit the tool any more.
        """
        part = Part(ToolCallPart(tool_call_id="", name=tool.name, arguments=asked.arguments), asked.choice)
        verdict = await self._evaluate(asked, tool, Stage.BEFORE, part)
        raise_if_blocked(verdict, Stage.BEFORE)
        arguments = asked.arguments
        if verdict.parts and isinstance(verdict.parts[0].content, ToolCallPart):
            arguments = verdict.parts[0].content.arguments
            tool.check_arguments(arguments, self._schemas.of_arguments(tool))
        return Run(asked=asked, tool=tool, arguments=arguments, before=verdict)

    async def result(self, run: Run, output: ToolOutput, *, hold_id: str, elapsed_us: int) -> Invocation | Blocked:
        """Gives the finished call, or that the law keeps its result back. Raises: Unavailable: it cannot be asked."""
        label = run.tool.label(run.asked.choice)
        part = text_part(output.text, label)
        measures = {"latency_ms": elapsed_us / 1000, "result_bytes": float(len(output.text.encode()))}
        verdict = await self._evaluate(run.asked, run.tool, Stage.AFTER, part, **measures)
        if not verdict.allowed:
            return blocked(verdict, Stage.AFTER)
        return Invocation(
            parts=tuple(replace(kept, label=kept.label.joined(label)) for kept in verdict.parts or (part,)),
            failed=output.failed,
            tool=run.tool.reference,
            hold_id=hold_id,
            cost_nano_usd=run.tool.cost if hold_id and output.sent else 0,
            verdict_ids=(run.before.id, verdict.id),
            cached=not hold_id,
            elapsed_us=elapsed_us,
            bundle_digest=verdict.bundle_digest,
        )

    def showing(self, run: Run, release: Release) -> Show:
        """Makes what an executor gives its text to while it comes. It raises `StoppedByLaw`."""
        live, label = LiveText(), run.tool.label(run.asked.choice)

        async def show(piece: str) -> None:
            live.add(piece)
            text = live.due()
            if text is None:
                return
            verdict = await self._evaluate(run.asked, run.tool, Stage.DURING, text_part(text, label))
            if not verdict.allowed:
                raise StoppedByLaw(blocked(verdict, Stage.DURING))
            fresh = live.passed(text_of(verdict.parts) if verdict.parts else text)
            if fresh:
                release(fresh)

        return show

    async def _evaluate(self, asked: Asked, tool: Tool, stage: Stage, part: Part, **measures: float) -> Verdict:
        subject = Subject(stage=stage, parts=(part,), measures=measures, context=asked.context, target=tool.name)
        return await self._law.evaluate(asked.principal, subject)


class StoppedByLaw(Exception):
    """The law stops a result while it comes."""

    def __init__(self, outcome: Blocked) -> None:
        super().__init__(outcome.verdict_id)
        self.outcome = outcome


def blocked(verdict: Verdict, stage: Stage) -> Blocked:
    """Gives what is recorded of a verdict that blocks."""
    return Blocked(verdict_id=verdict.id, stage=stage, rules=verdict.blocking, bundle=verdict.bundle)
