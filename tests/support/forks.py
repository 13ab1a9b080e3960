"""Forks without a server: made from a journal, and played on."""

from collections.abc import Sequence
from datetime import UTC, datetime

from comitia.orchestrator.v1 import agent_pb2, journal_pb2
from services.orchestrator.engine.dry_effects import dry_outcome
from services.orchestrator.engine.facts import Beginning, Replay, advance
from services.orchestrator.programs.run import PROGRAMS, Programs
from services.orchestrator.record.forking import FirstFacts, Place, RecordedAnswers, Shared, SharedFacts
from services.orchestrator.record.pins import Changes, Own, Policy, changed, owned
from tests.support.sessions import World, outcome_of

Entry = journal_pb2.JournalEntry
FORK_ID = "run_01jf0000000000000000000000"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def shared_facts(journal: Sequence[Entry], *, path: str = "", at: int = 0, programs: Programs = PROGRAMS) -> Shared:
    """Reads a journal up to the place of a fork."""
    facts = SharedFacts("run_other", Place(path=path, at_sequence=at), programs=programs)
    for entry in journal:
        copy = Entry()
        copy.CopyFrom(entry)
        facts.take(copy)
    return facts.finish()


def fork(
    journal: Sequence[Entry],
    changes: Changes | None = None,
    *,
    path: str = "",
    at: int = 0,
    dry: bool = True,
    found: Sequence[agent_pb2.Agent] = (),
    run_id: str = FORK_ID,
    policy: Policy | None = None,
    programs: Programs = PROGRAMS,
) -> Beginning:
    """Makes the first facts of a fork, as ForkRun does."""
    shared = shared_facts(journal, path=path, at=at, programs=programs)
    answers = RecordedAnswers()
    for entry in journal if dry else ():
        answers.take(entry)
    own = Own(
        run_id=run_id,
        grant_id="grant_fork",
        budget_id="budget_fork",
        max_cost=5_000,
        forked_from="run_other",
        at_sequence=shared.at_sequence,
        dry_effects=dry,
        policy=policy,
    )
    pinned = owned(changed(shared.pinned, changes or Changes(), found), own)
    pinned.fork.answers.extend(answers.answers)
    facts = FirstFacts(shared, own, pinned, by="key_ada", now=NOON, programs=programs)
    for _ in facts.made():
        pass
    return facts.beginning


def play_on(beginning: Beginning, world: World) -> list[Entry]:
    """Plays a fork to its end, or to where it waits; gives every fact."""
    state, journal = beginning.state, list(beginning.entries)
    pinned = journal[0].run_started
    open_calls: dict[tuple[str, int], Entry] = {}
    new = list(journal)
    while True:
        for entry in new:
            match entry.WhichOneof("fact"):
                case "run_forked":
                    pinned = entry.run_forked.started
                case "call_intended":
                    open_calls[entry.path, entry.call_intended.call_index] = entry
                case "call_answered":
                    open_calls.pop((entry.path, entry.call_answered.call_index), None)
                case "call_failed":
                    open_calls.pop((entry.path, entry.call_failed.call_index), None)
                case "run_ended":
                    return journal
                case _:
                    pass
        if not open_calls:
            return journal
        intended = open_calls[next(iter(open_calls))]
        outcome = dry_outcome(pinned, intended) or outcome_of(world, intended)
        at = journal[-1].record_time
        state, new = advance(state, [outcome], at)
        journal += new


def replays(journal: Sequence[Entry], *, programs: Programs = PROGRAMS) -> bool:
    """Replays a journal, which raises if it does not follow from its program."""
    replay = Replay("run", programs)
    for entry in journal:
        copy = Entry()
        copy.CopyFrom(entry)
        replay.feed(copy)
    replay.finish()
    return True
