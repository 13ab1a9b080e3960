"""Who speaks next in a session: asked of an agent that moderates, or of a worker's step."""

import re
from collections.abc import Sequence
from typing import Final, cast

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from services.meshkit.content import Label, join
from services.meshkit.content.proto import label_from_proto
from services.orchestrator.programs.commands import MakeCall, encoded
from services.orchestrator.programs.prompting import Said
from services.orchestrator.programs.values import Json, NotJson, ValueTooLarge, from_value, to_value

#: Prompt file of the agent that moderates.
MODERATE_FILE: Final = "moderate.j2"
#: What a moderator answers to end the session.
END: Final = "END"
#: Tag of what a moderator said, which nobody is shown later.
MODERATION: Final = "moderation"
#: Speakers that a step may name for one round.
MAX_SPEAKERS: Final = 16
#: Characters of an earlier turn that a step is given.
_SHOWN_CHARACTERS: Final = 4_000
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:@\d+\.\d+\.\d+)?")


class AnswerWrong(Exception):
    """A step answered something that names no speakers."""

    reason = "STRATEGY_ANSWER_WRONG"


def picked_by_moderator(text: str, names: Sequence[str], *, may_end: bool) -> str:
    """Reads whom a moderator picked, `name@version`, or END; empty when the text names nobody, or several."""
    said = set(cast("list[str]", _WORD.findall(text)))
    found = {name for name in names if name in said or (name.partition("@")[0] in said and _alone(name, names))}
    if may_end and not found and END in said:
        return END
    return found.pop() if len(found) == 1 else ""


def descriptions_of(agents: Sequence[agent_pb2.Agent], names: Sequence[str]) -> dict[str, str]:
    """Says who can be picked, and what each is."""
    return {_called(name, names): agent.description for name, agent in zip(names, agents, strict=False)}


def ask_step(session: session_pb2.Session, round_: int, said: Sequence[Said]) -> MakeCall:
    """Has a worker say who speaks in a round."""
    step = session.strategy_step
    turns: list[Json] = [{"speaker": one.speaker, "text": one.text[:_SHOWN_CHARACTERS]} for one in said]
    state: dict[str, Json] = {
        "session_id": session.session_id,
        "topic": session.topic_start,
        "round": round_,
        "max_rounds": session.max_rounds,
        "agents": list(session.agents),
        "turns": turns,
    }
    task = journal_pb2.StepTask(name=step.name, pool=step.pool, input=to_value(state))
    return MakeCall(
        path=f"speakers/{round_}", index=0, kind=journal_pb2.CALL_KIND_STEP, request=encoded(task), begins_step=True
    )


def picked_by_step(response: bytes, names: Sequence[str]) -> tuple[str, ...]:
    """Reads whom a step named, in order; nobody when it ends the session. Raises: AnswerWrong."""
    try:
        output = from_value(to_value(from_value(journal_pb2.StepResult.FromString(response).output)))
    except (NotJson, ValueTooLarge) as cause:
        raise AnswerWrong("the step that decides who speaks answered no JSON") from cause
    answer = cast("dict[str, Json]", output) if isinstance(output, dict) else {}
    if answer == {"end": True}:
        return ()
    speakers = answer.get("speakers")
    if set(answer) != {"speakers"} or not isinstance(speakers, list):
        raise AnswerWrong("the step that decides who speaks is to answer `speakers`, a list of names, or `end`, true")
    wanted = cast("list[Json]", speakers)
    if not 1 <= len(wanted) <= MAX_SPEAKERS:
        raise AnswerWrong(f"the step that decides who speaks named {len(wanted)} speakers; 1 to {MAX_SPEAKERS} may be")
    known = {name: name for name in names} | {_called(name, names): name for name in names}
    unknown = [name for name in wanted if not isinstance(name, str) or name not in known]
    if unknown:
        sentence = f"the step that decides who speaks named {str(unknown[0])[:100]!r}, who is none of the agents"
        raise AnswerWrong(sentence)
    return tuple(known[str(name)] for name in wanted)


def label_of_step(step: session_pb2.StrategyStep, response: bytes, said: Sequence[Said]) -> Label:
    """Gives the label of a step's choice: it has read what was said, and what else its worker read nobody knows."""
    result = journal_pb2.StepResult.FromString(response)
    read = join(one.label for one in said).joined(Label(sources=frozenset({f"worker:{step.name}"})))
    return read.joined(label_from_proto(result.label)) if result.HasField("label") else read


def _alone(name: str, names: Sequence[str]) -> bool:
    """Says whether a name without its version means one agent only."""
    short = name.partition("@")[0]
    return sum(1 for other in names if other.partition("@")[0] == short) == 1


def _called(name: str, names: Sequence[str]) -> str:
    return name.partition("@")[0] if _alone(name, names) else name
