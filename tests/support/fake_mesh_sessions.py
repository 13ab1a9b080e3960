"""Agents and sessions of the fake mesh. A session is played by a script as soon as it is started."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from comitia.common.v1 import usage_pb2
from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, estimate_pb2, session_pb2, session_service_pb2
from services.meshkit.core.errors import ErrorKind, Invalid, NotFound
from tests.support.fake_mesh_estimates import an_estimate
from tests.support.fake_mesh_rooms import NOON, Refused, one_page

_ENDED = (
    session_pb2.SESSION_STATE_SUCCEEDED,
    session_pb2.SESSION_STATE_FAILED,
    session_pb2.SESSION_STATE_CANCELLED,
)


@dataclass(slots=True)
class Agents:
    """Immutable versions."""

    versions: dict[str, agent_pb2.Agent] = field(default_factory=dict[str, agent_pb2.Agent])

    def CreateAgent(self, request: Any, _context: Any) -> agent_service_pb2.CreateAgentResponse:
        agent = request.agent
        if not agent.name:
            raise Invalid("agent.name", "must be 1 to 63 letters, digits, '_' and '-'")
        key = f"{agent.name}@{agent.version}"
        stored = self.versions.get(key)
        if stored is None:
            stored = self.versions[key] = agent_pb2.Agent()
            stored.CopyFrom(agent)
            stored.digest, stored.create_time.seconds = f"digest-{key}", NOON.seconds
        same = agent_pb2.Agent()
        same.CopyFrom(stored)
        same.ClearField("digest")
        same.ClearField("create_time")
        if same != agent:
            message = f"agent {key} exists with another definition; make a new version"
            raise Refused(ErrorKind.EXISTS, "AGENT_VERSION_EXISTS", message, agent=key)
        return agent_service_pb2.CreateAgentResponse(agent=stored)

    def find(self, name: str) -> agent_pb2.Agent:
        """Finds a version, the highest when none is named."""
        found = [key for key in sorted(self.versions) if name in (key, key.partition("@")[0])]
        if not found:
            raise NotFound("agent", name)
        return self.versions[found[-1]]

    def GetAgent(self, request: Any, _context: Any) -> agent_service_pb2.GetAgentResponse:
        name = f"{request.name}@{request.version}" if request.version else request.name
        return agent_service_pb2.GetAgentResponse(agent=self.find(name))

    def InferAgent(self, request: Any, _context: Any) -> agent_service_pb2.InferAgentResponse:
        agent = self.find(request.name)
        session = session_pb2.Session(session_id="run_asked", state=session_pb2.SESSION_STATE_SUCCEEDED)
        if request.prompt == "something forbidden":
            session.state = session_pb2.SESSION_STATE_FAILED
            session.state_reason, session.state_message = "LAW_BLOCKED", "rule no_swords blocks it"
            return agent_service_pb2.InferAgentResponse(session=session)
        turn = session_pb2.Turn(agent_name=agent.name, agent_version=agent.version)
        turn.output.content = f"{agent.name} answers {request.prompt!r}"
        return agent_service_pb2.InferAgentResponse(session=session, turn=turn)

    def ListAgents(self, request: Any, _context: Any) -> agent_service_pb2.ListAgentsResponse:
        page, token = one_page([self.versions[key] for key in sorted(self.versions)], request)
        return agent_service_pb2.ListAgentsResponse(agents=page, next_page_token=token)


@dataclass(slots=True)
class Played:
    """A session with everything that happened in it."""

    session: session_pb2.Session
    model: str = ""
    turns: list[session_pb2.Turn] = field(default_factory=list[session_pb2.Turn])
    events: list[session_service_pb2.WatchSessionResponse] = field(
        default_factory=list[session_service_pb2.WatchSessionResponse]
    )


@dataclass(slots=True)
class Sessions:
    """Sessions that are played at once, and streams that break."""

    agents: Agents
    played: dict[str, Played] = field(default_factory=dict[str, Played])
    by_request: dict[str, str] = field(default_factory=dict[str, str])
    #: Leaves new sessions running with one turn begun, until they are cancelled.
    hold: bool = False
    #: Lets new sessions fail after a round with this reason.
    fail_with: str = ""
    #: What each turn says; `{agent}` and `{round}` are filled in.
    says: str = "{agent} speaks in round {round}."
    #: Breaks each new stream after so many messages, as often as there are numbers left.
    breaks: list[int] = field(default_factory=list[int])
    #: Ends streams in peace instead, as a replica that drains does.
    drains: bool = False
    #: Sends this many of the recorded events once more after a resume.
    repeats: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    #: `after_sequence` of each stream.
    opened_after: list[int] = field(default_factory=list[int])

    def StartSession(self, request: Any, _context: Any) -> session_service_pb2.StartSessionResponse:
        if known := self.by_request.get(request.request_id):
            return session_service_pb2.StartSessionResponse(session=self.played[known].session)
        if not request.topic or len(request.topic) > 16_000:
            raise Invalid("topic", "must be 1 to 16,000 characters")
        names = [f"{agent.name}@{agent.version}" for agent in map(self.agents.find, request.agents)]
        if not names:
            raise Invalid("agents", "must name 1 to 16 agents")
        session = session_pb2.Session(
            session_id=f"run_{len(self.played) + 1}",
            topic_start=request.topic,
            topic_final=request.topic,
            mode=request.mode,
            strategy=request.strategy,
            agents=names,
            max_rounds=request.max_rounds if request.HasField("max_rounds") else 3,
            convergence=request.convergence,
            manual_advance=request.manual_advance,
            max_cost_nano_usd=request.max_cost_nano_usd or 1_000_000_000,
            metadata=request.metadata,
            start_time=NOON,
            state=session_pb2.SESSION_STATE_RUNNING,
        )
        if request.preflight > estimate_pb2.PREFLIGHT_MODE_OFF:
            session.estimate.CopyFrom(an_estimate())
        played = self.played[session.session_id] = Played(session, request.model)
        self.by_request[request.request_id] = session.session_id
        self._record(played, session_started=session)
        self._play(played)
        return session_service_pb2.StartSessionResponse(session=session)

    def _play(self, played: Played) -> None:
        session = played.session
        while session.state == session_pb2.SESSION_STATE_RUNNING:
            if self.hold:
                self._begin_turn(played, session.agents[0])
                return
            session.rounds_executed += 1
            for name in session.agents:
                self._turn(played, name)
            score = session_pb2.RoundScore(round=session.rounds_executed, jaccard=0.25, semantic=0.5)
            session.scores.append(score)
            self._record(played, round_scored=score)
            if self.fail_with:
                self._end(played, session_pb2.SESSION_STATE_FAILED, self.fail_with, "the budget is used up")
            elif session.rounds_executed == session.max_rounds:
                self._end(played, session_pb2.SESSION_STATE_SUCCEEDED)
            elif session.manual_advance:
                session.state = session_pb2.SESSION_STATE_WAITING
                self._record(played, state_changed=session)

    def _begin_turn(self, played: Played, name: str) -> str:
        short = name.partition("@")[0]
        path = f"rounds/{played.session.rounds_executed}/{short}"
        started = session_service_pb2.TurnStarted(round=played.session.rounds_executed, agent=name, path=path)
        self._record(played, turn_started=started)
        return path

    def _turn(self, played: Played, name: str) -> None:
        session = played.session
        path, (short, _, version) = self._begin_turn(played, name), name.partition("@")
        said = self.says.format(agent=short, round=session.rounds_executed)
        for piece in (said[:5], said[5:]):
            played.events.append(
                session_service_pb2.WatchSessionResponse(
                    sequence=session.sequence, text_delta=session_service_pb2.TextDelta(path=path, text=piece)
                )
            )
        session.turn_count += 1
        session.cost_nano_usd += 1_000
        turn = session_pb2.Turn(
            turn_id=f"turn_{session.turn_count}",
            session_id=session.session_id,
            round=session.rounds_executed,
            index=session.turn_count,
            agent_name=short,
            agent_version=version,
            output=session_pb2.TurnOutput(
                content=said,
                usage=usage_pb2.Usage(input_tokens=10, output_tokens=5),
                stub=played.model == "stub",
            ),
            monitors=[session_pb2.MonitorResult(name="no_secrets", status="pass", stage="before")],
            verdict_ids=["verdict_1", "verdict_2"],
            cost=session_pb2.TurnCost(
                provider="openai", model=played.model or "openai/gpt-4o-mini", cost_nano_usd=1_000
            ),
        )
        played.turns.append(turn)
        self._record(played, turn_completed=turn)

    def _record(self, played: Played, **event: Any) -> None:
        played.session.sequence += 1
        played.events.append(
            session_service_pb2.WatchSessionResponse(sequence=played.session.sequence, event_time=NOON, **event)
        )

    def _end(self, played: Played, state: Any, reason: str = "", message: str = "") -> None:
        session = played.session
        session.state, session.state_reason, session.state_message = state, reason, message
        session.end_time.CopyFrom(NOON)
        self._record(played, session_ended=session)

    def _find(self, session_id: str) -> Played:
        if session_id not in self.played:
            raise NotFound("session", session_id)
        return self.played[session_id]

    def GetSession(self, request: Any, _context: Any) -> session_service_pb2.GetSessionResponse:
        return session_service_pb2.GetSessionResponse(session=self._find(request.session_id).session)

    def ListSessions(self, request: Any, _context: Any) -> session_service_pb2.ListSessionsResponse:
        page, token = one_page([one.session for one in reversed(self.played.values())], request)
        return session_service_pb2.ListSessionsResponse(sessions=page, next_page_token=token)

    def ListTurns(self, request: Any, _context: Any) -> session_service_pb2.ListTurnsResponse:
        page, token = one_page(self._find(request.session_id).turns, request)
        return session_service_pb2.ListTurnsResponse(turns=page, next_page_token=token)

    def AdvanceSession(self, request: Any, _context: Any) -> session_service_pb2.AdvanceSessionResponse:
        played = self._find(request.session_id)
        if played.session.state != session_pb2.SESSION_STATE_WAITING:
            raise Refused(ErrorKind.PRECONDITION, "SESSION_NOT_WAITING", "the session does not wait for anybody")
        played.session.state = session_pb2.SESSION_STATE_RUNNING
        self._record(played, state_changed=played.session)
        self._play(played)
        return session_service_pb2.AdvanceSessionResponse(session=played.session)

    def CancelSession(self, request: Any, _context: Any) -> session_service_pb2.CancelSessionResponse:
        played = self._find(request.session_id)
        if played.session.state in _ENDED:
            raise Refused(ErrorKind.PRECONDITION, "SESSION_ALREADY_TERMINAL", "the session has ended")
        self._end(played, session_pb2.SESSION_STATE_CANCELLED, "CANCELLED", "stopped by request")
        return session_service_pb2.CancelSessionResponse(session=played.session)

    def WatchSession(
        self, request: Any, context: grpc.ServicerContext
    ) -> Iterator[session_service_pb2.WatchSessionResponse]:
        played = self._find(request.session_id)
        self.opened_after.append(request.after_sequence)
        after = max(0, request.after_sequence - self.repeats)
        left = self.breaks.pop(0) if self.breaks else None
        place = 0
        while context.is_active() and not self.closing.is_set():
            for event in played.events[place:]:
                place += 1
                if event.sequence <= after:
                    continue
                if left == 0:
                    if not self.drains:
                        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                    return
                yield event
                left = None if left is None else left - 1
            if played.session.state in _ENDED:
                return
            self.closing.wait(0.02)
