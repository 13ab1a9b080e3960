"""Sessions without a server: builders of their facts, and a world that answers their calls."""

from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Integrity, Label
from services.meshkit.content.proto import label_to_proto, struct_from_dict
from services.meshkit.core.errors import MeshError
from services.orchestrator.engine.facts import advance
from services.orchestrator.programs.run import RunState
from services.orchestrator.prompts import load_prompts

USER = label_to_proto(Label(integrity=Integrity.USER))
RUN_ID = "run_01jd0000000000000000000000"


def an_agent(name: str = "Athena", version: str = "1.0.0", **fields: object) -> agent_pb2.Agent:
    """Builds an agent."""
    return agent_pb2.Agent(name=name, version=version, kind=agent_pb2.AGENT_KIND_LLM, **fields)  # type: ignore[arg-type]


def a_start(
    *agents: agent_pb2.Agent,
    mode: session_pb2.SessionMode.ValueType = session_pb2.SESSION_MODE_DEBATE,
    strategy: session_pb2.SessionStrategy.ValueType = session_pb2.SESSION_STRATEGY_ROUND_ROBIN,
    max_rounds: int = 2,
    convergence: session_pb2.ConvergencePolicy | None = None,
    manual_advance: bool = False,
    topic: str = "Should every service have its own database?",
) -> journal_pb2.RunStarted:
    """Builds the first fact of a session."""
    cast = agents or (an_agent("Athena"), an_agent("Apollo"))
    return journal_pb2.RunStarted(
        program="dialogue",
        program_version=1,
        session=session_pb2.Session(
            session_id=RUN_ID,
            topic_start=topic,
            topic_final=topic,
            mode=mode,
            strategy=strategy,
            agents=[f"{agent.name}@{agent.version}" for agent in cast],
            max_rounds=max_rounds,
            convergence=convergence or session_pb2.ConvergencePolicy(),
            manual_advance=manual_advance,
            budget_id="budget_01jd0000000000000000000000",
        ),
        agents=cast,
        prompts=load_prompts(),
        grant_id="grant_01jd0000000000000000000000",
    )


def a_generation(text: str, *, tool: str = "", arguments: dict[str, object] | None = None) -> generation_pb2.Generation:
    """Builds a model's answer: text, or the wish to call a tool."""
    if tool:
        call = content_pb2.ToolCallPart(
            tool_call_id=f"call-{tool}", name=tool, arguments=struct_from_dict(arguments or {})
        )
        part = content_pb2.Part(tool_call=call, label=USER)
        reason = generation_pb2.STOP_REASON_TOOL_CALLS
    else:
        part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=USER)
        reason = generation_pb2.STOP_REASON_STOP
    generation = generation_pb2.Generation(
        parts=[part],
        stop_reason=reason,
        provider="scripted",
        model="scripted-1",
        hold_id="hold_01jd0000000000000000000000",
        cost_nano_usd=1_000,
        verdict_ids=["verdict_01jd0000000000000000000000"],
        bundle_digest="ab" * 32,
    )
    generation.usage.input_tokens = 10
    generation.usage.output_tokens = 5
    return generation


@dataclass(slots=True)
class World:
    """Answers calls as the neighbours would. Text by `say`; failures and tool wishes are queued by path."""

    say: Callable[[str, int], str] = field(default=lambda path, count: f"{path} says point number {count}")
    generations: dict[str, list[generation_pb2.Generation | MeshError]] = field(
        default_factory=dict[str, "list[generation_pb2.Generation | MeshError]"]
    )
    memory_down: bool = False
    remembered: list[memory_service_pb2.Memory] = field(default_factory=list[memory_service_pb2.Memory])
    requests: list[journal_pb2.JournalEntry] = field(default_factory=list[journal_pb2.JournalEntry])

    def answer(self, intended: journal_pb2.JournalEntry) -> Message:
        """Answers the call of a CallIntended fact. Raises: MeshError."""
        self.requests.append(intended)
        call = intended.call_intended
        match call.kind:
            case journal_pb2.CALL_KIND_RECALL:
                self._refuse_if_down()
                return memory_service_pb2.RecallResponse(recent=self.remembered[-6:])
            case journal_pb2.CALL_KIND_REMEMBER:
                self._refuse_if_down()
                return self._remember(memory_service_pb2.RememberRequest.FromString(call.request))
            case journal_pb2.CALL_KIND_EMBED:
                texts = inference_service_pb2.EmbedRequest.FromString(call.request).texts
                vectors = [generation_pb2.Embedding(values=[1.0, float(len(text) % 3)]) for text in texts]
                return inference_service_pb2.EmbedResponse(embeddings=vectors)
            case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
                return tool_service_pb2.ListToolsResponse(tools=[tool_service_pb2.Tool(name="calculator")])
            case journal_pb2.CALL_KIND_TOOL:
                part = content_pb2.Part(text=content_pb2.TextPart(text="42"), label=content_pb2.Label())
                return tool_service_pb2.Invocation(parts=[part], tool="calculator@1.0.0", cost_nano_usd=7)
            case _:
                return self._generate(intended.path)

    def _refuse_if_down(self) -> None:
        if self.memory_down:
            raise MeshError("memory does not answer")

    def _remember(self, request: memory_service_pb2.RememberRequest) -> memory_service_pb2.RememberResponse:
        memory = memory_service_pb2.Memory(
            memory_id=f"memory_{len(self.remembered):026d}",
            session_id=request.session_id,
            agent_name=request.agent_name,
            parts=request.parts,
            tags=request.tags,
        )
        self.remembered.append(memory)
        return memory_service_pb2.RememberResponse(memory=memory)

    def _generate(self, path: str) -> generation_pb2.Generation:
        queued = self.generations.get(path)
        if queued:
            scripted = queued.pop(0)
            if isinstance(scripted, MeshError):
                raise scripted
            return scripted
        return a_generation(self.say(path, len(self.requests)))


def outcome_of(world: World, intended: journal_pb2.JournalEntry) -> journal_pb2.JournalEntry:
    """Writes what came of a call as the fact that records it."""
    call, entry = intended.call_intended, journal_pb2.JournalEntry(path=intended.path)
    try:
        response = world.answer(intended).SerializeToString(deterministic=True)
    except MeshError as error:
        entry.call_failed.CopyFrom(
            journal_pb2.CallFailed(
                call_index=call.call_index, kind=call.kind, reason=error.reason, message=error.message
            )
        )
    else:
        entry.call_answered.CopyFrom(
            journal_pb2.CallAnswered(call_index=call.call_index, kind=call.kind, response=response)
        )
    return entry


def play(
    started: journal_pb2.RunStarted, world: World, *, order: Callable[[int], int] = lambda _: 0
) -> list[journal_pb2.JournalEntry]:
    """Plays a session to its end, or to where it waits; gives every fact.

    Args:
        order: picks which of `n` calls in flight is answered next.
    """
    second = 0
    state = RunState()
    state, facts = advance(state, [journal_pb2.JournalEntry(run_started=started)], Timestamp(seconds=second))
    journal = list(facts)
    in_flight = [fact for fact in facts if fact.WhichOneof("fact") == "call_intended"]
    while in_flight:
        second += 1
        answered = in_flight.pop(order(len(in_flight)))
        state, facts = advance(state, [outcome_of(world, answered)], Timestamp(seconds=second))
        journal += facts
        in_flight += [fact for fact in facts if fact.WhichOneof("fact") == "call_intended"]
        if any(fact.WhichOneof("fact") == "run_ended" for fact in facts):
            break
    return journal


def facts_of(journal: list[journal_pb2.JournalEntry], kind: str) -> list[journal_pb2.JournalEntry]:
    """Picks the facts of one kind."""
    return [entry for entry in journal if entry.WhichOneof("fact") == kind]
