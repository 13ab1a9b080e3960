"""Forks a run: what was answered until some place is taken over, and it goes on with something changed."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, run_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import MAX_NANO_USD, NanoUsd
from services.orchestrator.domain.agent import MAX_INSTRUCTIONS, MAX_MODEL, parse_version
from services.orchestrator.domain.errors import ProgramMissing, RecordDestroyed
from services.orchestrator.domain.session import MAX_TOPIC
from services.orchestrator.engine.facts import Beginning
from services.orchestrator.engine.plans import prepare
from services.orchestrator.engine.run import OwnedRun, RunKind, StartKey, shard_of
from services.orchestrator.engine.session_as_run import as_run
from services.orchestrator.programs.run import Programs, UnknownProgram
from services.orchestrator.record.forking import FirstFacts, Place, RecordedAnswers, Shared, SharedFacts
from services.orchestrator.record.pins import Changes, Own, Policy, changed, owned, seen_of, wanted_versions
from services.orchestrator.usecases.ports import AgentFacts, AgentStore, Bundles, Neighbours, Runs
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns, labels_of
from services.orchestrator.usecases.run_access import PROJECT, RunAccess
from services.orchestrator.usecases.run_input import check_schema, check_size

MAX_CHANGED_AGENTS: Final = 16
_BUNDLE: Final = re.compile(r"[A-Za-z0-9_-]{1,63}@\d{1,9}\.\d{1,9}\.\d{1,9}")
#: Facts that are decided before others get a turn.
_FACTS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkSpec:
    """What a caller asks for, as it came."""

    run_id: str
    place: Place
    changes: Changes
    dry_effects: bool = True
    #: Nano-USD; 0 means that of the other run.
    max_cost: int = 0
    #: `name@version` of a bundle of rules that judges its models; empty for the tenant's law.
    policy: str = ""

    def checked(self) -> "ForkSpec":
        """Gives the request back if it can be carried out with some run. Raises: Invalid, naming the field."""
        place, changes = self.place, self.changes
        if self.policy and not _BUNDLE.fullmatch(self.policy):
            raise Invalid("policy", "must name a bundle with its version, as strict@1.0.0")
        if self.policy and not self.dry_effects:
            raise Invalid("effects", "must be dry where `policy` is not the law: nothing acts on the world under that")
        if place.at_sequence < 0:
            raise Invalid("at_sequence", "must be 0 or more")
        if place.path and place.at_sequence:
            raise Invalid("at_sequence", "must be 0 where `path` says the place")
        if changes.topic and (not changes.topic.strip() or len(changes.topic) > MAX_TOPIC):
            raise Invalid("topic", f"must be 1 to {MAX_TOPIC} characters, has {len(changes.topic)}")
        if not 0 <= self.max_cost <= MAX_NANO_USD:
            raise Invalid("max_cost_nano_usd", "must be > 0, or 0 for that of the other run")
        _check_model("model", changes.model)
        self._check_agents()
        return self

    def _check_agents(self) -> None:
        agents = self.changes.agents
        if len(agents) > MAX_CHANGED_AGENTS:
            raise Invalid("agents", f"must name at most {MAX_CHANGED_AGENTS} agents, names {len(agents)}")
        for index, change in enumerate(agents):
            name = f"agents[{index}]"
            if change.version:
                parse_version(change.version, field=f"{name}.version")
            if len(change.instructions) > MAX_INSTRUCTIONS:
                sentence = f"must have at most {MAX_INSTRUCTIONS} characters, has {len(change.instructions)}"
                raise Invalid(f"{name}.instructions", sentence)
            _check_model(f"{name}.model", change.model)
            if not (change.version or change.instructions or change.model):
                raise Invalid(name, "must change the agent's version, instructions or model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRunCommand:
    """Who asks for what."""

    caller: Caller
    spec: ForkSpec
    #: The request's id, and the request without it; None when the caller sent none.
    request: tuple[UUID, bytes] | None = field(default=None, repr=False)

    def key(self, started: journal_pb2.RunStarted) -> StartKey | None:
        """Gives what makes the request the same request.

        Args:
            started: with what the run was started that is forked, for its fork is of the same kind.
        """
        if self.request is None:
            return None
        request_id, body = self.request
        kind = RunKind.RUN if started.HasField("run") else RunKind.SESSION
        tenant = self.caller.principal.tenant
        return StartKey(tenant=tenant, kind=kind, request_id=request_id, body=body, forks=True)


class ForkRun:
    """Reads what the fork shares, opens its budget, takes a grant, decides its first facts anew, and records them."""

    def __init__(
        self,
        *,
        recorded: RecordedRuns,
        agents: AgentStore,
        agent_facts: AgentFacts,
        neighbours: Neighbours,
        runs: Runs,
        bundles: Bundles,
        access: RunAccess,
        programs: Programs,
        clock: Clock,
    ) -> None:
        self._recorded = recorded
        self._agents = agents
        self._agent_facts = agent_facts
        self._neighbours = neighbours
        self._runs = runs
        self._bundles = bundles
        self._access = access
        self._programs = programs
        self._clock = clock

    async def __call__(self, command: ForkRunCommand) -> run_pb2.Run:
        """Gives the fork as it began, or what an earlier request with this key was answered.

        Raises: Invalid, RunInputInvalid, RunNotFound, AgentNotFound, RelationMissing, RunDiverged, ProgramMissing,
            RecordDestroyed, RunsAtLimit, QuotaExceeded, RequestIdReused, RequestInProgress, and what policy, cost or
            the gateway refuse.
        """
        spec, caller = command.spec.checked(), command.caller
        run = await self._recorded.open(caller, spec.run_id)
        if run.started is None:
            raise RecordDestroyed(spec.run_id)
        await prepare(run.started)
        await self._access.to_start(caller, labels_of(run.started))
        key = command.key(run.started)
        if key is not None:
            earlier = await self._runs.started_before(key)
            if earlier is not None:
                return as_run(earlier)
        # Counted again, exactly, when the run is recorded: here so that a start beyond the quota leaves nothing behind.
        await self._runs.check_quota(caller.principal.tenant)
        with self._runs.place(caller.principal.tenant):
            return await self._begin(command, run, key)

    async def _begin(self, command: ForkRunCommand, run: RecordedRun, key: StartKey | None) -> run_pb2.Run:
        caller, spec = command.caller, command.spec
        shared, answers = await self._read(run, spec)
        _check_fits(spec.changes, shared)
        _check_judged(spec.policy, shared)
        found = await self._found(caller, shared, spec.changes)
        pins = changed(shared.pinned, spec.changes, found)
        policy = None
        if spec.policy:
            policy = Policy(bundle=spec.policy, digest=await self._bundles.digest(caller, spec.policy))
        now = self._clock.now()
        run_id = self._runs.new_run_id()
        limit = spec.max_cost or seen_of(shared.first.run_started).max_cost_nano_usd
        # The budget comes last, as when a run starts: see StartRun.
        grant_id = await self._neighbours.issue_grant(caller, run_id)
        own = Own(
            run_id=run_id,
            grant_id=grant_id,
            budget_id=await self._neighbours.open_budget(
                caller, run_id, NanoUsd(limit), project=labels_of(shared.first.run_started).get(PROJECT, "")
            ),
            max_cost=limit,
            forked_from=spec.run_id,
            at_sequence=shared.at_sequence,
            dry_effects=spec.dry_effects,
            deadline=_deadline(shared, now),
            policy=policy,
        )
        pinned = owned(pins, own)
        pinned.fork.answers.extend(answers)
        beginning = await self._beginning(shared, own, pinned, caller, now)
        owned_run = OwnedRun(tenant=caller.principal.tenant, run_id=run_id, grant_id=grant_id, shard=shard_of(run_id))
        return as_run(await self._runs.begin(key, owned_run, beginning))

    async def _read(self, run: RecordedRun, spec: ForkSpec) -> tuple[Shared, Sequence[journal_pb2.RecordedAnswer]]:
        facts = SharedFacts(run.run_id, spec.place, programs=self._programs)
        answers = RecordedAnswers()
        number = 0
        try:
            async for entry in run.entries():
                number += 1
                facts.take(entry)
                if spec.dry_effects:
                    answers.take(entry)
                elif facts.found:
                    break
                if not number % _FACTS_AT_ONCE:
                    await asyncio.sleep(0)
            return facts.finish(), answers.answers
        except UnknownProgram as error:
            raise ProgramMissing(run.run_id, str(error)) from error

    async def _found(self, caller: Caller, shared: Shared, changes: Changes) -> Sequence[agent_pb2.Agent]:
        wanted = wanted_versions(shared.pinned, changes)
        found = await self._agents.resolve(caller.principal.tenant, wanted) if wanted else ()
        return [self._agent_facts(agent) for agent in found]

    async def _beginning(
        self, shared: Shared, own: Own, pinned: journal_pb2.RunStarted, caller: Caller, now: datetime
    ) -> Beginning:
        by = caller.principal.subject
        facts = FirstFacts(shared, own, pinned, by=by, now=now, programs=self._programs)
        told = 0
        for made in facts.made():
            if made - told >= _FACTS_AT_ONCE:
                told = made
                await asyncio.sleep(0)
        return facts.beginning


def _check_fits(changes: Changes, shared: Shared) -> None:
    """Refuses what a run of this kind, or this place of it, cannot be changed in. Raises: Invalid, RunInputInvalid."""
    pinned = shared.pinned
    if pinned.HasField("run"):
        if changes.topic:
            raise Invalid("topic", "must be empty: a run of a workflow has an input, not a topic")
    elif changes.input is not None:
        raise Invalid("input", "must be absent: a session has a topic, not an input")
    if changes.input is None:
        return
    if shared.at_sequence:
        raise Invalid("input", "must be absent where a run goes on: steps were made from what it was given")
    check_size(changes.input)
    check_schema(pinned.workflow, changes.input)


def _check_judged(policy: str, shared: Shared) -> None:
    """Refuses to go on under the law, and so to act, with answers that the law never judged. Raises: Invalid."""
    if shared.bundle and not policy:
        sentence = f"must name a bundle, as {shared.bundle}: that, and not the law, judged what is taken over"
        raise Invalid("policy", f"{sentence}; from the beginning, which takes over nothing, it may be empty")


def _check_model(name: str, model: str) -> None:
    if len(model) > MAX_MODEL:
        raise Invalid(name, f"must have at most {MAX_MODEL} characters")


def _deadline(shared: Shared, now: datetime) -> datetime | None:
    """Gives a fork as long a life as the other run had."""
    started = shared.first.run_started
    if not started.run.HasField("deadline_time"):
        return None
    life = started.run.deadline_time.ToDatetime(tzinfo=UTC) - shared.first.record_time.ToDatetime(tzinfo=UTC)
    return now + life
