"""Several agents deliberating in rounds, until they converge, stagnate or have had all their rounds.

RunStarted ─▶ round 1 ─▶ (score) ─▶ RoundScored ─▶ round 2 … ─▶ EndRun
              turns:                    │
              one after the other,      └─▶ WaitForAdvance ─▶ RunAdvanced ─▶ next round
              all at once, or whom a
              moderator or a step picks
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from comitia.inference.v1 import inference_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from services.meshkit.content import Confidentiality, Integrity, Label, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_from_proto
from services.orchestrator.programs.commands import (
    Command,
    EndRun,
    FailStep,
    MakeCall,
    ScoreRound,
    StartStep,
    WaitForAdvance,
    encoded,
)
from services.orchestrator.programs.dialogue_speakers import (
    END,
    MODERATE_FILE,
    MODERATION,
    AnswerWrong,
    ask_step,
    descriptions_of,
    label_of_step,
    picked_by_moderator,
    picked_by_step,
)
from services.orchestrator.programs.prompting import PROMPT_FILES, Said
from services.orchestrator.programs.similarity import jaccard, mean_pairwise_cosine, mean_pairwise_jaccard, words_of
from services.orchestrator.programs.speaking import TurnInputs, program_of

NAME: Final = "dialogue"
VERSION: Final = 1
#: Turns kept for a prompt that has to do without recall.
_KEPT_TURNS: Final = 6
_DEFAULT_JACCARD: Final = 0.8
_DEFAULT_STAGNATION: Final = 0.95
#: Convergence is a movement: one round alone shows none.
_FIRST_JUDGED_ROUND: Final = 2
#: What the person who started the session wrote.
_USER: Final = Label(
    integrity=Integrity.USER, confidentiality=Confidentiality.TENANT, sources=frozenset({"user:session"})
)
_DEFAULT_RECENT_TURNS: Final = 6
#: Strategies by which somebody else says who speaks.
_PICKED: Final = frozenset({session_pb2.SESSION_STRATEGY_MODERATED, session_pb2.SESSION_STRATEGY_STEP})
#: Reason of the end when a moderator or a step said that this was all.
ENDED_BY_STRATEGY: Final = "ENDED_BY_STRATEGY"


@dataclass(slots=True, kw_only=True)
class DialogueState:
    """Where a session is. Changed by `decide` only."""

    started: journal_pb2.RunStarted
    round: int = 0
    turns: int = 0
    #: Turns of the current round, and who still speaks in it, where that is known.
    spoken: int = 0
    order: tuple[str, ...] = ()
    #: How often each agent has spoken, by `name@version`.
    times: dict[str, int] = field(default_factory=dict[str, int])
    #: Who stands where an agent stood before a fork: a turn that was in progress there ends under its old name.
    stands_for: dict[str, str] = field(default_factory=dict[str, str])
    #: Label of what picked the speaker.
    picked: Label = BOTTOM
    #: What each agent said in the current round, by `name@version`.
    current: dict[str, Said] = field(default_factory=dict[str, Said])
    #: What each agent said in the round before.
    previous: dict[str, Said] = field(default_factory=dict[str, Said])
    #: The latest turns, oldest first.
    said: list[Said] = field(default_factory=list[Said])
    #: Turns that a fork took over, oldest first. Memory knows them under the run that it was forked from.
    adopted: tuple[Said, ...] = ()
    #: Agents by the names under which turns were begun before a fork; those end as they were begun.
    renamed: dict[str, str] = field(default_factory=dict[str, str])
    #: True between WaitForAdvance and the first RunAdvanced after it.
    waiting: bool = False
    ended: bool = False

    @property
    def session(self) -> session_pb2.Session:
        """The session as it was asked for."""
        return self.started.session

    @property
    def names(self) -> Sequence[str]:
        """The agents, `name@version`, in order of speech."""
        return self.session.agents


def begin(entry: journal_pb2.JournalEntry) -> tuple[DialogueState, tuple[Command, ...]]:
    """Starts a session from its RunStarted fact."""
    state = DialogueState(started=entry.run_started)
    return state, _next_round(state)


def decide(
    state: DialogueState, fact: str | None, entry: journal_pb2.JournalEntry
) -> tuple[DialogueState, tuple[Command, ...]]:
    """Takes a fact of the session and says what comes next."""
    if state.ended:
        return state, ()
    match fact:
        case "step_completed":
            return state, _on_turn(state, entry.step_completed.turn)
        case "step_failed":
            failure = entry.step_failed
            return state, _end(state, session_pb2.SESSION_STATE_FAILED, failure.reason, failure.message)
        case "call_answered" if entry.call_answered.kind == journal_pb2.CALL_KIND_STEP:
            return state, _on_step(state, entry.call_answered.response)
        case "call_failed" if entry.call_failed.kind == journal_pb2.CALL_KIND_STEP:
            failure = entry.call_failed
            return state, _end(state, session_pb2.SESSION_STATE_FAILED, failure.reason, failure.message)
        case "call_answered":
            answer = inference_service_pb2.EmbedResponse.FromString(entry.call_answered.response)
            cosine = mean_pairwise_cosine([list(embedding.values) for embedding in answer.embeddings])
            return state, (_score(state, semantic=cosine),)
        case "call_failed":
            return state, (_score(state, semantic=None),)
        case "round_scored":
            return state, _on_score(state, entry.round_scored.score)
        case "run_advanced":
            # Two people may advance at the same moment; the second one asks for a round that has begun.
            return state, _next_round(state) if state.waiting else ()
        case "run_cancelling":
            message = f"cancelled by {entry.run_cancelling.by}"
            return state, _end(state, session_pb2.SESSION_STATE_CANCELLED, "CANCELLED", message)
        case _:
            return state, ()


def inputs_of(state: DialogueState, entry: journal_pb2.JournalEntry) -> TurnInputs:
    """Gathers what a turn of this session is made from, at its StepStarted fact."""
    started, session = entry.step_started, state.session
    if started.agent == session.moderator:
        return _inputs_of_moderator(state, started.round)
    position = list(state.names).index(started.agent)
    agent: agent_pb2.Agent = state.started.agents[position]
    tag = f"round:{started.round}"
    turn_by_turn = session.strategy in _PICKED
    unheard = MODERATION if session.strategy == session_pb2.SESSION_STRATEGY_MODERATED else ""
    return TurnInputs(
        run_id=session.session_id,
        topic=session.topic_start,
        label=_USER.joined(state.picked) if turn_by_turn else _USER,
        prompt_file=PROMPT_FILES[session.mode],
        agent=agent,
        others=tuple(other.name for other in _speakers(state) if other.name != agent.name),
        position=position + 1,
        index=state.turns + 1 if turn_by_turn else (started.round - 1) * len(state.names) + position + 1,
        round=started.round,
        max_rounds=session.max_rounds,
        said=tuple(state.said),
        adopted=state.adopted,
        tags=(tag,),
        unheard_tag=tag if session.strategy == session_pb2.SESSION_STRATEGY_PARALLEL else unheard,
        recent_turns=_recalled(session, agent),
        prompts=state.started.prompts,
        model=state.started.model_override,
    )


def _inputs_of_moderator(state: DialogueState, round_: int) -> TurnInputs:
    """Gathers what a moderator picks the next speaker from."""
    session, agent = state.session, state.started.agents[len(state.names)]
    return TurnInputs(
        run_id=session.session_id,
        topic=session.topic_start,
        label=_USER,
        prompt_file=MODERATE_FILE,
        agent=agent,
        others=tuple(other.name for other in _speakers(state)),
        index=state.turns + 1,
        round=round_,
        max_rounds=session.max_rounds,
        said=tuple(state.said),
        adopted=state.adopted,
        data=descriptions_of(state.started.agents, state.names),
        tags=(f"round:{round_}", MODERATION),
        unheard_tag=MODERATION,
        recent_turns=_recalled(session, agent),
        prompts=state.started.prompts,
        model=state.started.model_override,
    )


def _recalled(session: session_pb2.Session, agent: agent_pb2.Agent) -> int:
    """Says how many turns are recalled: with a moderator, every other one is its own, and not shown."""
    wanted = agent.memory.recent_turns or _DEFAULT_RECENT_TURNS
    return 2 * wanted if session.strategy == session_pb2.SESSION_STRATEGY_MODERATED else wanted


def _speakers(state: DialogueState) -> Sequence[agent_pb2.Agent]:
    return state.started.agents[: len(state.names)]


def takes_turn(state: DialogueState, _path: str) -> bool:
    """Says whether the turn at a place is still wanted."""
    return not state.ended


def forked(state: DialogueState, started: journal_pb2.RunStarted) -> None:
    """Goes on with other pins; an agent of another version stands for the one at its place."""
    renamed = dict(zip(state.names, started.session.agents, strict=True))
    renamed[state.session.moderator] = started.session.moderator
    state.stands_for = {before: renamed[name] for before, name in state.stands_for.items()} | renamed
    state.renamed = {before: renamed[after] for before, after in state.renamed.items()} | renamed
    state.started = started
    state.current = {renamed[name]: said for name, said in state.current.items()}
    state.previous = {renamed[name]: said for name, said in state.previous.items()}
    state.order = tuple(renamed[name] for name in state.order)
    state.times = {renamed[name]: count for name, count in state.times.items()}
    # Where agents speak at once, what was said in a round is heard when it ends.
    parallel = state.session.strategy == session_pb2.SESSION_STRATEGY_PARALLEL
    unheard = [state.current[name] for name in state.names if name in state.current] if parallel else []
    state.adopted = (*state.said, *unheard)


def turn_failed(_state: DialogueState, failed: FailStep) -> tuple[Command, ...]:
    """Says what comes of a turn that failed: there is no other attempt in a session."""
    return (failed,)


def _next_round(state: DialogueState) -> tuple[Command, ...]:
    state.waiting = False
    state.round += 1
    state.previous, state.current = state.current, {}
    state.spoken, state.order = 0, ()
    match state.session.strategy:
        case session_pb2.SESSION_STRATEGY_PARALLEL:
            return tuple(_turn_of(state, name) for name in state.names)
        case session_pb2.SESSION_STRATEGY_MODERATED:
            return (_turn_of(state, state.session.moderator),)
        case session_pb2.SESSION_STRATEGY_STEP:
            return (ask_step(state.session, state.round, state.said),)
        case _:
            state.order = tuple(state.names)
            return (_turn_of(state, state.order[0]),)


def _on_step(state: DialogueState, response: bytes) -> tuple[Command, ...]:
    """Begins the round with those that a step has named."""
    try:
        state.order = picked_by_step(response, state.names)
    except AnswerWrong as error:
        return _end(state, session_pb2.SESSION_STATE_FAILED, error.reason, str(error))
    if not state.order:
        return _end(state, session_pb2.SESSION_STATE_SUCCEEDED, ENDED_BY_STRATEGY, "")
    state.picked = label_of_step(state.session.strategy_step, response, state.said)
    return (_turn_of(state, state.order[0]),)


def _on_moderation(state: DialogueState, turn: session_pb2.Turn) -> tuple[Command, ...]:
    """Lets the one speak whom the moderator picked, or who has spoken least when that is nobody."""
    name = picked_by_moderator(turn.output.content, state.names, may_end=bool(state.said))
    if name == END:
        return _end(state, session_pb2.SESSION_STATE_SUCCEEDED, ENDED_BY_STRATEGY, "")
    state.picked = join(label_from_proto(part.label) for part in turn.output.parts)
    least = min(state.names, key=lambda other: state.times.get(other, 0))
    return (_turn_of(state, name or least),)


def _turn_of(state: DialogueState, name: str) -> StartStep:
    short = name.partition("@")[0]
    alone = sum(1 for other in state.started.agents if other.name == short) == 1
    # Who is picked turn by turn may speak more than once in a round.
    place = f"{state.round}/{state.spoken + 1}" if state.session.strategy in _PICKED else f"{state.round}"
    known = [*state.names, state.session.moderator]
    return StartStep(
        path=f"rounds/{place}/{short if alone else name}",
        program=program_of(state.started.agents[known.index(name)]),
        round=state.round,
        agent=name,
    )


def _on_turn(state: DialogueState, turn: session_pb2.Turn) -> tuple[Command, ...]:
    name = f"{turn.agent_name}@{turn.agent_version}"
    name = state.stands_for.get(name, name)
    name = state.renamed.get(name, name)
    said = Said(
        speaker=turn.agent_name,
        text=turn.output.content,
        label=join(label_from_proto(part.label) for part in turn.output.parts),
    )
    state.turns += 1
    if name == state.session.moderator:
        return _on_moderation(state, turn)
    state.current[name] = said
    state.spoken += 1
    state.times[name] = state.times.get(name, 0) + 1
    parallel = state.session.strategy == session_pb2.SESSION_STRATEGY_PARALLEL
    moderated = state.session.strategy == session_pb2.SESSION_STRATEGY_MODERATED
    if not parallel:
        state.said.append(said)
    if state.spoken < (len(state.names) if parallel or moderated else len(state.order)):
        if parallel:
            return ()
        return (_turn_of(state, state.session.moderator if moderated else state.order[state.spoken]),)
    if parallel:
        state.said.extend(state.current[speaker] for speaker in state.names)
    del state.said[: -max(_KEPT_TURNS, len(state.names))]
    texts = [said.text for said in _of_round(state)]
    if state.session.convergence.semantic_threshold > 0 and len(texts) > 1 and all(texts):
        return (
            MakeCall(
                path=f"scores/{state.round}",
                index=0,
                kind=journal_pb2.CALL_KIND_EMBED,
                request=encoded(inference_service_pb2.EmbedRequest(texts=texts)),
            ),
        )
    return (_score(state, semantic=None),)


def _of_round(state: DialogueState) -> list[Said]:
    """Gives what was said last by each who spoke in the round, in the order of the agents."""
    return [state.current[name] for name in state.names if name in state.current]


def _score(state: DialogueState, *, semantic: float | None) -> ScoreRound:
    policy = state.session.convergence
    texts = [said.text for said in _of_round(state)]
    score = session_pb2.RoundScore(round=state.round, jaccard=mean_pairwise_jaccard(texts))
    if semantic is not None:
        score.semantic = semantic
    repeats = [
        jaccard(words_of(state.previous[name].text), words_of(state.current[name].text))
        for name in state.names
        if name in state.previous and name in state.current
    ]
    if repeats:
        score.stagnation = sum(repeats) / len(repeats)
        score.stagnant = policy.enabled and min(repeats) >= (policy.stagnation_threshold or _DEFAULT_STAGNATION)
    if policy.enabled and state.round >= _FIRST_JUDGED_ROUND and len(texts) > 1:
        agreed_in_words = score.jaccard >= (policy.jaccard_threshold or _DEFAULT_JACCARD)
        agreed_in_meaning = semantic is not None and semantic >= policy.semantic_threshold
        score.converged = agreed_in_words or agreed_in_meaning
    return ScoreRound(score=score)


def _on_score(state: DialogueState, score: session_pb2.RoundScore) -> tuple[Command, ...]:
    if score.converged or score.stagnant or state.round >= state.session.max_rounds:
        reason = "CONVERGED" if score.converged else "STAGNANT" if score.stagnant else ""
        return _end(state, session_pb2.SESSION_STATE_SUCCEEDED, reason, "", converged=score.converged)
    if state.session.manual_advance:
        state.waiting = True
        return (WaitForAdvance(round=state.round),)
    return _next_round(state)


def _end(
    state: DialogueState,
    final: session_pb2.SessionState.ValueType,
    reason: str,
    message: str,
    *,
    converged: bool = False,
) -> tuple[Command, ...]:
    state.ended = True
    topic = state.session.topic_start
    succeeded = final == session_pb2.SESSION_STATE_SUCCEEDED
    if succeeded and state.session.mode == session_pb2.SESSION_MODE_CONSENSUS and state.said:
        topic = state.said[-1].text
    return (EndRun(state=final, reason=reason, message=message, topic_final=topic, converged=converged),)
