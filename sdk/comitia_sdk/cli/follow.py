"""Shows a session as it happens: text as it streams, then each recorded turn."""

import json
import sys
from typing import TYPE_CHECKING, Final

import typer

from comitia_sdk.cli.failure import CommandFailed
from comitia_sdk.cli.output import Form, as_json, dollars, plain
from comitia_sdk.cli.tokens import tokens_in, tokens_out

if TYPE_CHECKING:
    from comitia.orchestrator.v1.session_pb2 import RoundScore, Session, Turn
    from comitia.orchestrator.v1.session_service_pb2 import WatchSessionResponse
    from comitia_sdk.sync import Client

_COLOURS: Final = (typer.colors.CYAN, typer.colors.MAGENTA, typer.colors.YELLOW, typer.colors.GREEN, typer.colors.BLUE)


def follow_session(mesh: "Client", session_id: str, form: Form = Form.TABLE, *, after: int = 0) -> "Session":
    """Shows a session's events until it has ended; gives the session as it ended.

    As JSON, each event is one line.
    """
    screen = _Screen()
    last = None
    for event in mesh.sessions.watch(session_id, after_sequence=after):
        if form is Form.JSON:
            typer.echo(json.dumps(as_json(event), ensure_ascii=False))
        else:
            screen.show(event)
        if event.WhichOneof("event") == "session_ended":
            last = event.session_ended
    return last if last is not None else mesh.sessions.get(session_id)


def state_of(session: "Session") -> str:
    """Gives the state's short name."""
    from comitia.orchestrator.v1.session_pb2 import SessionState
    from comitia_sdk.enums import short_name

    return short_name(SessionState, session.state)


def require_success(session: "Session") -> None:
    """Checks how a session ended. Raises: CommandFailed: it failed or was cancelled."""
    from comitia.orchestrator.v1 import session_pb2

    if session.state != session_pb2.SESSION_STATE_SUCCEEDED:
        why = session.state_message or session.state_reason or "no reason was given"
        raise CommandFailed(f"the session has {state_of(session)}: {why}")


def show_turn(turn: "Turn", *, colour: str | None = None) -> None:
    """Shows a recorded turn whole."""
    typer.secho(f"\n{plain(turn.agent_name)}", fg=colour, bold=True)
    typer.echo(plain(turn.output.content).strip())
    show_turn_note(turn)


def show_turn_note(turn: "Turn") -> None:
    """Shows who answered a turn, what it cost, and what law and tools did about it."""
    used = turn.output.usage
    notes = [
        "stub, not a model" if turn.output.stub else turn.cost.model,
        f"{tokens_in(used)} tokens in, {tokens_out(used)} out",
        dollars(turn.cost.cost_nano_usd),
    ]
    notes += [f"tool {use.name}{' failed' if use.failed else ''}" for use in turn.tool_uses]
    matched = [f"{monitor.name} ({monitor.status})" for monitor in turn.monitors if monitor.status != "pass"]
    notes.append(f"law: {', '.join(matched)}" if matched else f"{len(turn.monitors)} rules passed")
    if turn.without_recall:
        notes.append("memory was down")
    typer.secho(f"  {plain(' · '.join(notes))}", dim=True)


class _Screen:
    """What stands on the terminal: whose text is open, and how far it has come."""

    def __init__(self) -> None:
        #: Place of the turn whose text streams in; empty when none is open.
        self._open = ""
        self._streamed = ""
        #: Turns that were recorded while another one's text was open.
        self._later: list[Turn] = []
        self._colours: dict[str, str] = {}
        #: Text that streams in is only good on a terminal; in a file, turns come whole.
        self._live = sys.stdout.isatty()

    def show(self, event: "WatchSessionResponse") -> None:
        """Shows one event."""
        match event.WhichOneof("event"):
            case "turn_started" if self._live and not self._open:
                self._begin(event.turn_started.path, event.turn_started.agent)
            case "text_delta" if event.text_delta.path == self._open:
                self._stream(event.text_delta.text, restart=event.text_delta.restart)
            case "turn_completed":
                self._complete(event.turn_completed)
            case "round_scored":
                self._score(event.round_scored)
            case "state_changed":
                self._state(event.state_changed)
            case "session_ended":
                self._let_go()
            case _:
                pass

    def _colour(self, speaker: str) -> str:
        return self._colours.setdefault(speaker, _COLOURS[len(self._colours) % len(_COLOURS)])

    def _begin(self, path: str, agent: str) -> None:
        self._open, self._streamed = path, ""
        speaker = agent.partition("@")[0]
        typer.secho(f"\n{plain(speaker)}", fg=self._colour(speaker), bold=True)

    def _stream(self, text: str, *, restart: bool) -> None:
        if restart and self._streamed:
            typer.secho("\n(starting again)", dim=True)
            self._streamed = ""
        shown = text if self._streamed else text.lstrip()
        self._streamed += shown
        typer.echo(plain(shown), nl=False)

    def _complete(self, turn: "Turn") -> None:
        if self._open and self._open.rpartition("/")[2] not in (
            turn.agent_name,
            f"{turn.agent_name}@{turn.agent_version}",
        ):
            self._later.append(turn)
            return
        if self._open:
            self._close(turn)
        else:
            show_turn(turn, colour=self._colour(turn.agent_name))
        self._let_go()

    def _close(self, turn: "Turn") -> None:
        """Ends the open text as it was recorded; usually nothing or only its end is still missing."""
        recorded = turn.output.content.strip()
        if recorded.startswith(self._streamed):
            typer.echo(plain(recorded[len(self._streamed) :]))
        elif recorded != self._streamed.strip():
            typer.secho("\n(recorded as)", dim=True)
            typer.echo(plain(recorded))
        else:
            typer.echo("")
        show_turn_note(turn)
        self._open = self._streamed = ""

    def _let_go(self) -> None:
        """Leaves an open text as it is, and shows the turns that waited for its end."""
        if self._open:
            typer.echo("")
            self._open = self._streamed = ""
        waiting, self._later = self._later, []
        for turn in waiting:
            show_turn(turn, colour=self._colour(turn.agent_name))

    def _score(self, score: "RoundScore") -> None:
        self._let_go()
        typer.secho(f"\nround {score.round}: {score_words(score)}", bold=True)

    def _state(self, session: "Session") -> None:
        self._let_go()
        state = state_of(session)
        why = session.state_message
        if state == "waiting":
            why = f"go on with `comitia session advance {session.session_id}`"
        typer.secho(f"\n[{state}{f': {plain(why)}' if why else ''}]", dim=True)


def score_words(score: "RoundScore") -> str:
    """Says how alike a round's turns are."""
    parts = [f"words {score.jaccard:.2f}"]
    if score.HasField("semantic"):
        parts.append(f"meaning {score.semantic:.2f}")
    if score.HasField("stagnation"):
        parts.append(f"repetition {score.stagnation:.2f}")
    end = "; the agents agree" if score.converged else "; nothing new was said" if score.stagnant else ""
    return f"how alike the turns are, 0 to 1: {', '.join(parts)}{end}"
