"""Shows a session as it happens: text as it streams, then each recorded turn."""

import json
import sys
from typing import TYPE_CHECKING

import typer

from comitia_sdk.cli.output import Form, as_json, dollars

if TYPE_CHECKING:
    from comitia.orchestrator.v1.session_pb2 import RoundScore, Session, Turn
    from comitia.orchestrator.v1.session_service_pb2 import WatchSessionResponse
    from comitia_sdk.sync import Client

_COLOURS = (typer.colors.CYAN, typer.colors.MAGENTA, typer.colors.YELLOW, typer.colors.GREEN, typer.colors.BLUE)


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


class _Screen:
    """What stands on the terminal: which speaker's text is open, and how far it has come."""

    def __init__(self) -> None:
        self._open = ""
        self._colours: dict[str, str] = {}
        self._streamed: dict[str, str] = {}
        #: Text that streams in is only good on a terminal; in a file, turns come whole.
        self._live = sys.stdout.isatty()

    def show(self, event: "WatchSessionResponse") -> None:
        """Shows one event."""
        match event.WhichOneof("event"):
            case "turn_started" if self._live:
                self._begin(event.turn_started.path, event.turn_started.agent)
            case "text_delta" if self._live:
                self._stream(event.text_delta.path, event.text_delta.text, restart=event.text_delta.restart)
            case "turn_completed":
                self._complete(event.turn_completed)
            case "round_scored":
                self._score(event.round_scored)
            case "state_changed":
                self._state(event.state_changed)
            case _:
                pass

    def _colour(self, speaker: str) -> str:
        return self._colours.setdefault(speaker, _COLOURS[len(self._colours) % len(_COLOURS)])

    def _begin(self, path: str, agent: str) -> None:
        if self._open:
            return  # several speak at once: the others are shown whole when they are done
        self._open = path
        speaker = agent.partition("@")[0]
        typer.secho(f"\n{speaker}", fg=self._colour(speaker), bold=True)

    def _stream(self, path: str, text: str, *, restart: bool) -> None:
        if path != self._open:
            return
        if restart and self._streamed.get(path):
            self._streamed[path] = ""
            typer.secho("\n(starting again)", dim=True)
        self._streamed[path] = self._streamed.get(path, "") + text
        typer.echo(text, nl=False)

    def _complete(self, turn: "Turn") -> None:
        path = self._open
        if path and path.endswith(f"/{turn.agent_name}"):
            rest = turn.output.content.removeprefix(self._streamed.pop(path, ""))
            # What was streamed is superseded by the record; usually only its end is still missing.
            typer.echo(rest)
            self._open = ""
        else:
            typer.secho(f"\n{turn.agent_name}", fg=self._colour(turn.agent_name), bold=True)
            typer.echo(turn.output.content)
        used = turn.output.usage
        note = (
            f"{turn.cost.model} · {used.input_tokens}+{used.output_tokens} tokens · {dollars(turn.cost.cost_nano_usd)}"
        )
        blocked = [monitor.name for monitor in turn.monitors if monitor.status != "pass"]
        law = f" · law: {', '.join(blocked)}" if blocked else f" · {len(turn.monitors)} rules passed"
        typer.secho(f"  {note}{law}", dim=True)

    def _score(self, score: "RoundScore") -> None:
        parts = [f"words {score.jaccard:.2f}"]
        if score.HasField("semantic"):
            parts.append(f"meaning {score.semantic:.2f}")
        if score.HasField("stagnation"):
            parts.append(f"repetition {score.stagnation:.2f}")
        end = ", converged" if score.converged else ", stagnant" if score.stagnant else ""
        typer.secho(f"\nround {score.round}: similarity of {', '.join(parts)}{end}", fg=typer.colors.WHITE, bold=True)

    def _state(self, session: "Session") -> None:
        from comitia_sdk.cli.sessions import state_of

        why = f": {session.state_message}" if session.state_message else ""
        typer.secho(f"\n[{state_of(session)}{why}]", dim=True)
