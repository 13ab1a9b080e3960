"""What a run pinned and met, gathered from its facts. The same facts always give the same manifest.

A file says it once more for people and programs that do not read facts; whoever reads the file gathers it again and
compares.
"""

from hashlib import sha256
from typing import Any, Final

from google.protobuf.message import Message

from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2, workflow_pb2
from comitia.tools.v1 import tool_service_pb2

#: Calls that ask a model.
_MODEL_CALLS: Final = frozenset(
    {
        journal_pb2.CALL_KIND_GENERATE,
        journal_pb2.CALL_KIND_PLAN,
        journal_pb2.CALL_KIND_EXTRACT,
        journal_pb2.CALL_KIND_CHOOSE,
    }
)


class ManifestMaker:
    """Takes the facts of a run in order, with their commitments."""

    def __init__(self) -> None:
        self._commitments = sha256()
        self._facts = 0
        self._program, self._program_version = "", 0
        self._workflow: dict[str, str] = {}
        self._forked_from: dict[str, str] = {}
        self._prompts: dict[str, str] = {}
        self._step_programs: set[tuple[str, int]] = set()
        self._agents: set[tuple[str, str, str]] = set()
        self._tools: set[tuple[str, str, str]] = set()
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._bundles: set[str] = set()
        self._state = "IN_PROGRESS"

    @property
    def commitments_sha256(self) -> str:
        """SHA-256 over the commitments so far, hex."""
        return self._commitments.hexdigest()

    def take_commitment(self, commitment: bytes) -> None:
        """Takes the commitment of the next fact."""
        self._commitments.update(commitment)
        self._facts += 1

    def take(self, entry: journal_pb2.JournalEntry) -> None:
        """Takes the next fact. Raises: DecodeError: it holds an answer that is none."""
        match entry.WhichOneof("fact"):
            case "run_started":
                self._take_start(entry.run_started)
            case "run_forked":
                self._pin(entry.run_forked.started)
            case "step_started":
                self._step_programs.add((entry.step_started.program, entry.step_started.program_version))
            case "call_intended" if entry.call_intended.kind in _MODEL_CALLS:
                asked = inference_service_pb2.StreamGenerateRequest.FromString(entry.call_intended.request)
                self._asked.add(asked.model or "default")
            case "call_answered":
                self._take_answer(entry.call_answered)
            case "run_ended":
                self._state = _state_name(entry.run_ended.state)
            case "run_abandoned":
                self._state = "CANCELLED"
            case _:
                pass

    def manifest(self) -> dict[str, Any]:
        """Gives all that was gathered, as it is written."""
        found: dict[str, Any] = {
            "agents": [_named(*agent) for agent in sorted(self._agents)],
            "bundles": sorted(self._bundles),
            "commitments_sha256": self.commitments_sha256,
            "facts": str(self._facts),
            "models_answered": sorted(self._answered),
            "models_asked": sorted(self._asked),
            "program": self._program,
            "program_version": self._program_version,
            "prompts": self._prompts,
            "state": self._state,
            "step_programs": [{"name": name, "version": version} for name, version in sorted(self._step_programs)],
            "tools": [_named(*tool) for tool in sorted(self._tools)],
        }
        if self._workflow:
            found["workflow"] = self._workflow
        if self._forked_from:
            found["forked_from"] = self._forked_from
        return found

    def _take_start(self, started: journal_pb2.RunStarted) -> None:
        self._program, self._program_version = started.program, started.program_version
        if started.HasField("workflow"):
            workflow = started.workflow
            self._workflow = _named(workflow.name, workflow.version, _digest_of(workflow))
        if started.HasField("fork"):
            self._forked_from = {"at_sequence": str(started.fork.at_sequence), "run_id": started.fork.run_id}
        self._pin(started)

    def _pin(self, started: journal_pb2.RunStarted) -> None:
        for name, text in started.prompts.items():
            self._prompts[name] = sha256(text.encode()).hexdigest()
        for agent in started.agents:
            self._agents.add((agent.name, agent.version, _digest_of(agent)))
        if started.model_override:
            self._asked.add(started.model_override)

    def _take_answer(self, answer: journal_pb2.CallAnswered) -> None:
        match answer.kind:
            case kind if kind in _MODEL_CALLS:
                generation = generation_pb2.Generation.FromString(answer.response)
                self._answered.add(f"{generation.provider}/{generation.model}")
                self._judged_by(generation.bundle_digest)
            case journal_pb2.CALL_KIND_TOOL:
                self._judged_by(tool_service_pb2.Invocation.FromString(answer.response).bundle_digest)
            case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
                for tool in tool_service_pb2.ListToolsResponse.FromString(answer.response).tools:
                    self._tools.add((tool.name, tool.version, _digest_of(tool)))
            case _:
                pass

    def _judged_by(self, bundle_digest: str) -> None:
        if bundle_digest:
            self._bundles.add(bundle_digest)


def _named(name: str, version: str, digest: str) -> dict[str, str]:
    return {"digest": digest, "name": name, "version": version}


def _state_name(state: session_pb2.SessionState.ValueType) -> str:
    if state not in session_pb2.SessionState.values():
        return str(int(state))
    return session_pb2.SessionState.Name(state).removeprefix("SESSION_STATE_")


def _digest_of(one: agent_pb2.Agent | tool_service_pb2.Tool | workflow_pb2.Workflow) -> str:
    """Gives the digest that the definition says of itself, else one of the whole."""
    return one.digest or sha256(_encoded(one)).hexdigest()


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
