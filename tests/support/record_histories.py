"""Writes histories of runs, as `comitia run export` would: `python -m tests.support.record_histories [FOLDER]`.

They show what runs of every kind did under the programs of the release that wrote them. Later releases have to decide
the same, so a history that is there is never written again: `tests/unit/orchestrator/record/test_histories.py` replays
all of them. With another version of a program comes another history beside the old one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from comitia_sdk.record.run_file import RunFileWriter
from services.meshkit.core.errors import ErrorKind
from services.meshkit.crypto.commitments import commit
from services.meshkit.grpc.errors import RemoteError
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.programs.run import RunState
from services.orchestrator.programs.values import Json
from services.orchestrator.record.pins import Changes
from services.orchestrator.transport.convert import workflow_to_proto
from tests.support.definitions import stored
from tests.support.forks import fork, play_on
from tests.support.planned import play_planned, tasks, world_of
from tests.support.sessions import RUN_ID, World, a_generation, a_start, an_agent, play
from tests.support.workflows import Fails, Mesh, Silent, a_run

FOLDER: Final = Path(__file__).parents[1] / "histories"
Entry = journal_pb2.JournalEntry
Journal = Sequence[Entry]
PARALLEL: Final = session_pb2.SESSION_STRATEGY_PARALLEL


def _money_spent() -> RemoteError:
    """What cost says through inference."""
    return RemoteError(
        "the budget is used up",
        kind=ErrorKind.EXHAUSTED,
        reason="BUDGET_EXHAUSTED",
        domain="cost.comitia",
        metadata={},
    )


def debate() -> Journal:
    """Two agents, one after the other, two rounds."""
    return play(a_start(), World())


def brainstorm() -> Journal:
    """Three agents at once, compared by meaning, answered out of order."""
    agents = [an_agent(name) for name in ("Athena", "Apollo", "Hermes")]
    policy = session_pb2.ConvergencePolicy(enabled=True, semantic_threshold=0.999)
    mode = session_pb2.SESSION_MODE_BRAINSTORM
    started = a_start(*agents, mode=mode, strategy=PARALLEL, max_rounds=2, convergence=policy)
    return play(started, World(), order=lambda many: many - 1)


def consensus() -> Journal:
    """Agents that agree before their rounds are over."""
    policy = session_pb2.ConvergencePolicy(enabled=True)
    started = a_start(mode=session_pb2.SESSION_MODE_CONSENSUS, max_rounds=5, convergence=policy)
    return play(started, World(say=lambda _path, _count: "We agree on one database for each service."))


def tools_and_style() -> Journal:
    """An agent that calls a tool, is refused once, and speaks with a style."""
    athena = an_agent("Athena", tools=["calculator"], style={"logic": 0.9}, instructions="Reason.")
    world = World()
    world.generations["rounds/1/Athena"] = [
        a_generation("", tool="calculator", arguments={"expression": "6 * 7"}),
        a_generation("It is 42."),
    ]
    return play(a_start(athena, an_agent("Apollo")), world)


def without_memory() -> Journal:
    """A session that goes on while memory is down."""
    return play(a_start(), World(memory_down=True))


def out_of_money() -> Journal:
    """A session that fails in its second round."""
    world = World()
    world.generations["rounds/2/Athena"] = [_money_spent()]
    return play(a_start(max_rounds=3), world)


def advanced_by_hand() -> Journal:
    """A session that waits after its first round, is advanced, parked, resumed, and cancelled."""
    journal = list(play(a_start(manual_advance=True, max_rounds=3), World()))
    return _then(
        journal,
        Entry(run_advanced=journal_pb2.RunAdvanced(by="key_ada")),
        Entry(run_parked=journal_pb2.RunParked(reason="UNAVAILABLE", message="memory does not answer")),
        Entry(run_resumed=journal_pb2.RunResumed()),
        Entry(run_cancelling=journal_pb2.RunCancelling(by="key_ada")),
    )


def forked() -> Journal:
    """A fork of the debate at its second round, with another topic."""
    return play_on(fork(debate(), Changes(topic="Rivers or rails?"), path="rounds/2/Athena"), World())


def dry_fork_with_tools() -> Journal:
    """A fork that takes a tool's answer from the record, and is told of another call that nobody made."""
    world = World()
    world.generations["rounds/1/Athena"] = [
        a_generation("", tool="calculator", arguments={"expression": "6 * 7"}),
        a_generation("", tool="calculator", arguments={"expression": "6 * 8"}),
        a_generation("So it is."),
    ]
    return play_on(fork(tools_and_style(), path="rounds/1/Athena"), world)


def planned_with_choices() -> Journal:
    """A turn that plans first: branches, loops, and lets a reader without tools choose."""
    return _task("D6")


def planned_over_a_list() -> Journal:
    """A turn that plans first and does the same for each of many."""
    return _task("F5")


def planned_anew() -> Journal:
    """A turn whose planner is shown what somebody outside wrote, once somebody has read it."""
    return _task("O6")


REVIEW: Final = """
name: review
version: 1.0.0
deadline: 1d
input_schema: {type: object, required: [pages, strict], properties: {pages: {type: array, items: {type: string}},
  strict: {type: boolean}}}
nodes:
  - id: each
    map:
      items: {cel: input.pages}
      max_parallel: 2
      on_item_failure: omit
      body:
        agent: {agent: Athena, prompt: Sum this page up in one sentence.}
        input: {page: {cel: item}, place: {cel: index + 1}}
        policy: {retries: {max_attempts: 2, first_backoff: 1s}}
  - id: whole
    depends_on: [each]
    aggregate: concat
  - id: check
    depends_on: [whole]
    when: input.strict
    step: {name: reviews.check, pool: reviews}
    input: {text: {cel: nodes.whole.output}}
    policy: {retries: {max_attempts: 3, first_backoff: 2s}, timeout: 30s}
  - id: person
    depends_on: [{node: check, when: "nodes.check.state != 'skipped'"}]
    wait: {signal: person.decided, timeout: 7d}
  - id: file
    depends_on: [{node: person, when: "nodes.person.output.approved == true"}]
    tool: store_document@1.0.0
    input: {text: {cel: nodes.whole.output}}
    policy: {on_failure: continue, retries: {max_attempts: 1}}
output:
  summary: {cel: nodes.whole.output}
  filed: {cel: "nodes.file.state == 'succeeded'"}
"""
STEPS: Final = """
name: steps
version: 1.0.0
nodes:
  - id: first
    step: {name: work}
    input: {n: {cel: input.n}}
    policy: {retries: {max_attempts: 2, first_backoff: 1s}}
  - id: pause
    depends_on: [first]
    wait: {timer: 1500ms}
  - id: left
    depends_on: [pause]
    step: {name: work}
    input: {n: {cel: nodes.first.output.n + 1.0}}
  - id: right
    depends_on: [pause]
    step: {name: work}
    input: {n: {cel: nodes.first.output.n + 2.0}}
    policy: {on_failure: continue, retries: {max_attempts: 1}}
  - id: sum
    depends_on: [left, {node: right, when: "nodes.right.state != 'running'"}]
    fan_in: any
    aggregate: {items: {cel: "[nodes.left.output.n]"}, reducer: sum}
"""


def reviewed() -> Journal:
    """A workflow with a map of turns, a condition, a worker that fails once, a person and a tool."""
    mesh = _mesh({"nodes/check": [Fails(), {"sound": True}]})
    mesh.start(_run_of(REVIEW, {"pages": ["One.", "Two.", "Three."], "strict": True}))
    while "nodes/person" not in mesh.steps():
        mesh.drive(order=lambda many: many - 1, timers=False)
        if "nodes/person" not in mesh.steps() and mesh.timers.next is not None:
            mesh.sleep_until(mesh.timers.next)
    signal = journal_pb2.SignalReceived(name="person.decided", by="user_ben")
    signal.payload.struct_value.update({"approved": True})
    mesh.record(Entry(signal_received=signal))
    return mesh.drive().journal


def not_strict() -> Journal:
    """The same workflow whose condition skips what follows."""
    return _mesh({}).play(_run_of(REVIEW, {"pages": ["One."], "strict": False})).journal


def parked_and_resumed() -> Journal:
    """A workflow with a step that fails in all its attempts, is paused, and goes on when somebody lets it."""
    mesh = _mesh(
        {"nodes/first": [Fails(), Fails(), {"n": 1}], "nodes/left": [{"n": 2}], "nodes/right": [Fails(final=True)]}
    )
    mesh.play(_run_of(STEPS, {"n": 1}))
    mesh.record(Entry(run_paused=journal_pb2.RunPaused(by="key_ada")))
    mesh.record(Entry(run_continued=journal_pb2.RunContinued(by="key_ada")))
    return mesh.drive().journal


def past_its_deadline() -> Journal:
    """A workflow that a silent worker keeps until its deadline."""
    mesh = _mesh({"nodes/first": [Silent()]})
    started = _run_of(STEPS, {"n": 1})
    started.run.deadline_time.FromDatetime(mesh.now + timedelta(hours=1))
    return mesh.play(started).journal


def forked_workflow() -> Journal:
    """A dry fork of the review before its worker is asked."""
    return play_on(fork(reviewed(), path="nodes/check"), World())


HISTORIES: Final[Mapping[str, Callable[[], Journal]]] = {
    one.__name__: one
    for one in (
        *(debate, brainstorm, consensus, tools_and_style, without_memory, out_of_money, advanced_by_hand),
        *(forked, dry_fork_with_tools, planned_with_choices, planned_over_a_list, planned_anew),
        *(reviewed, not_strict, parked_and_resumed, past_its_deadline, forked_workflow),
    )
}


def written(name: str, journal: Journal) -> bytes:
    """Writes a journal as a file; the same one always gives the same bytes."""
    writer = RunFileWriter(RUN_ID, facts=len(journal))
    lines = [writer.head()]
    for sequence, entry in enumerate(journal, 1):
        salt = sha256(f"{name}/{sequence}".encode()).digest()
        content = entry.SerializeToString(deterministic=True)
        lines.append(writer.fact(sequence, entry=content, salt=salt, commitment=commit(salt, content)))
    return b"".join((*lines, writer.end()))


def main(folder: Path) -> None:
    """Writes those histories that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, play_it in HISTORIES.items():
        path = folder / f"{name}.comitia"
        if path.exists():
            print(f"{path.name} is there and stays")
            continue
        path.write_bytes(written(name, play_it()))
        print(f"{path.name} written")


def _task(name: str) -> Journal:
    """Plays a task of docs/decisions/0010-planned-turns."""
    task = next(task for task in tasks() if task["id"] == name)
    return play_planned(world_of(task, task["runs"][0]), request=task["request"])


def _mesh(answers: dict[str, list[object]]) -> Mesh:
    """Gives a mesh in which runs are decided as in the real one."""
    return Mesh(answers=dict(answers), state=RunState())


def _run_of(text: str, given: Mapping[str, Json]) -> journal_pb2.RunStarted:
    workflow = workflow_to_proto(stored(text))
    started = a_run(workflow, given=given, agents=[an_agent("Athena")])
    started.run.workflow = f"{workflow.name}@{workflow.version}"
    return started


def _then(journal: list[Entry], *outside: Entry) -> Journal:
    """Records further facts from outside, each a second after the one before."""
    replay = Replay(RUN_ID)
    for entry in journal:
        replay.feed(entry)
    state, at = replay.state, journal[-1].record_time.ToDatetime()
    for entry in outside:
        at += timedelta(seconds=1)
        state, made = advance(state, [entry], _stamp(at))
        journal += made
    return journal


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
