"""What a fork pins: what the other run pinned, with what is the fork's own and what is to be otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, run_pb2, session_pb2
from services.meshkit.core.errors import Invalid
from services.orchestrator.domain.run import Json
from services.orchestrator.programs.values import to_struct


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a fork has of its own, whatever it changes."""

    run_id: str
    grant_id: str
    budget_id: str
    #: Nano-USD.
    max_cost: int
    forked_from: str
    at_sequence: int
    dry_effects: bool
    #: None where the other run has none.
    deadline: datetime | None = None
    #: None where the tenant's law judges it.
    policy: "Policy | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A bundle of rules, as it is pinned."""

    #: `name@version`
    bundle: str
    #: Of its rules, hex.
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChange:
    """An agent that a fork changes. Empty values keep what was pinned."""

    #: `name`, or `name@version` where the run has several of that name.
    name: str
    version: str = ""
    instructions: str = field(default="", repr=False)
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a fork pins otherwise. Empty values keep what was pinned."""

    topic: str = ""
    #: None keeps it.
    input: Mapping[str, Json] | None = field(default=None, repr=False)
    #: For every agent in place of its own.
    model: str = ""
    agents: Sequence[AgentChange] = ()


def owned(started: journal_pb2.RunStarted, own: Own) -> journal_pb2.RunStarted:
    """Gives what a run was started with as a fork has it; answers that it brought along are left out."""
    made = journal_pb2.RunStarted()
    made.CopyFrom(started)
    made.grant_id = own.grant_id
    fork = made.fork
    fork.run_id, fork.at_sequence, fork.dry_effects = own.forked_from, own.at_sequence, own.dry_effects
    fork.ClearField("answers")
    fork.bundle, fork.bundle_digest = ("", "") if own.policy is None else (own.policy.bundle, own.policy.digest)
    seen = seen_of(made)
    seen.policy, seen.policy_digest = fork.bundle, fork.bundle_digest
    if isinstance(seen, run_pb2.Run):
        seen.run_id = own.run_id
        # Somebody starts a fork: it is no step of the run that the other one was a step of.
        seen.parent_run_id = seen.parent_path = ""
        made.ClearField("parent_steps")
        if own.deadline is not None:
            seen.deadline_time.FromDatetime(own.deadline)
    else:
        seen.session_id = own.run_id
    seen.budget_id, seen.max_cost_nano_usd = own.budget_id, own.max_cost
    seen.forked_from_run_id, seen.forked_at_sequence = own.forked_from, own.at_sequence
    # Of a whole run under other budgets.
    seen.ClearField("estimate")
    return made


def seen_of(started: journal_pb2.RunStarted) -> run_pb2.Run | session_pb2.Session:
    """Gives the run, or the session, as it was asked for."""
    return started.run if started.HasField("run") else started.session


def wanted_versions(pinned: journal_pb2.RunStarted, changes: Changes) -> Sequence[tuple[str, str]]:
    """Gives name and version of the agents that are to take the place of pinned ones.

    Raises: Invalid: a change names no agent of the run, several, or one twice; or a version that the run has already.
    """
    places = _places(pinned, changes)
    known = {_name_of(agent) for agent in pinned.agents}
    wanted: list[tuple[str, str]] = []
    for index, (place, change) in enumerate(zip(places, changes.agents, strict=True)):
        agent = pinned.agents[place]
        if change.version and change.version != agent.version:
            if f"{agent.name}@{change.version}" in known:
                raise Invalid(f"agents[{index}].version", f"the run has {agent.name}@{change.version} already")
            wanted.append((agent.name, change.version))
    return wanted


def changed(
    pinned: journal_pb2.RunStarted, changes: Changes, found: Sequence[agent_pb2.Agent]
) -> journal_pb2.RunStarted:
    """Gives what a run pinned with what is to be otherwise.

    Args:
        found: the agents that `wanted_versions` asked for.
    Raises: Invalid: see `wanted_versions`.
    """
    made = journal_pb2.RunStarted()
    made.CopyFrom(pinned)
    if changes.topic:
        made.session.topic_start = made.session.topic_final = changes.topic
    if changes.input is not None:
        made.run.input.CopyFrom(to_struct(changes.input))
        # A user wrote it, wherever that of the other run came from.
        made.ClearField("input_label")
    if changes.model:
        made.model_override = changes.model
    places = _places(made, changes)
    by_name = {_name_of(agent): agent for agent in found}
    for place, change in zip(places, changes.agents, strict=True):
        other = by_name.get(f"{made.agents[place].name}@{change.version}")
        if other is not None:
            _replace(made, place, other)
    if any(change.model for change in changes.agents):
        _give_each_its_model(made)
    for place, change in zip(places, changes.agents, strict=True):
        if change.instructions or change.model:
            agent = made.agents[place]
            agent.instructions = change.instructions or agent.instructions
            agent.model = change.model or agent.model
            # It is not what that digest is of any more.
            agent.digest = ""
    return made


def _replace(made: journal_pb2.RunStarted, place: int, other: agent_pb2.Agent) -> None:
    """Has another version of an agent stand wherever the pinned one stood."""
    before, after = _name_of(made.agents[place]), _name_of(other)
    made.agents[place].CopyFrom(other)
    if not made.HasField("run"):
        names = made.session.agents
        if place < len(names):
            names[place] = after
        else:
            made.session.moderator = after
        return
    # In a fork of a fork the workflow still has the name that stood there first.
    first = next((name for name, stands in made.fork.agents.items() if stands == before), before)
    made.fork.agents[first] = after


def _give_each_its_model(made: journal_pb2.RunStarted) -> None:
    """Has every agent say itself which model it asks, so that one of them can ask another."""
    for agent in made.agents if made.model_override else ():
        agent.model = made.model_override
        agent.digest = ""
    made.model_override = ""


def _places(pinned: journal_pb2.RunStarted, changes: Changes) -> Sequence[int]:
    """Gives where the agents stand that are changed."""
    places: list[int] = []
    for index, change in enumerate(changes.agents):
        field_ = f"agents[{index}].name"
        named = [place for place, agent in enumerate(pinned.agents) if change.name in (agent.name, _name_of(agent))]
        if not named:
            known = ", ".join(sorted(map(_name_of, pinned.agents))) or "it has none"
            raise Invalid(field_, f"must name an agent of the run: {known}"[:500])
        if len(named) > 1:
            raise Invalid(field_, f"names several agents of the run; say which, as {_name_of(pinned.agents[named[0]])}")
        if named[0] in places:
            raise Invalid(field_, f"names {_name_of(pinned.agents[named[0]])} a second time")
        places += named
    return places


def _name_of(agent: agent_pb2.Agent) -> str:
    return f"{agent.name}@{agent.version}"
