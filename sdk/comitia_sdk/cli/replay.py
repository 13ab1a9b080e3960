"""`comitia replay`: a run from its file, without a mesh, a network or a key."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, one_line, show_json, show_lines

if TYPE_CHECKING:
    from comitia.orchestrator.v1.record_pb2 import Drift, Replay
    from comitia_sdk.record.run_file import RunFileReader

_NO_PROGRAMS: Final = (
    "this installation has the client only, and a replay needs the programs that decide runs: run it from a checkout "
    "of the repository (`make setup` there), or let the mesh do it with `comitia run replay`"
)
#: A file may come from anybody. What it makes the programs do stays within this.
_MAX_MEMORY_BYTES: Final = 8 * 1024**3
_GRACE_SECONDS: Final = 10
#: After the first alarm others follow, lest somebody takes the first one for a mistake of the file.
_AGAIN_SECONDS: Final = 1


class _TookTooLong(BaseException):
    """The time is up. No exception: what runs the programs answers those of a file that nobody can read."""


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `comitia run export` wrote.")],
    max_seconds: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Give up after so long.")] = 300,
    output: FormOption = Form.TABLE,
) -> None:
    """Executes a run again from its file, offline, and compares every decision. Exits with 1 when one differs.

    The file is checked first to last: what was changed, cut, added or moved in it is named.

    Example:  comitia replay run.jsonl
    """
    from comitia_sdk.record.run_file import RunFileBroken, RunFileReader, RunFileUnknown

    try:
        with file.open("rb") as opened, _bounds(max_seconds):
            reader = RunFileReader(opened)
            report = _replayed(reader)
    except (RunFileBroken, RunFileUnknown) as error:
        raise CommandFailed(f"{file}: {error}") from error
    except _TookTooLong as error:
        sentence = f"the replay takes longer than {max_seconds} s; give it more with --max-seconds"
        raise CommandFailed(sentence) from error
    except MemoryError as error:
        raise CommandFailed(f"{file} makes its programs use more than {_MAX_MEMORY_BYTES} bytes of memory") from error
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    if output is Form.JSON:
        show_json({"replay": as_json(report), "manifest": dict(reader.manifest)})
    else:
        _show_manifest(reader)
        show_replay(report)
    if not report.same:
        raise typer.Exit(EXIT_REFUSED)


def show_replay(report: "Replay") -> None:
    """Shows what came of a replay, and where it differs."""
    verdict = "the same" if report.same else f"differs at {report.drift_count} {_places(report.drift_count)}"
    decided = f", {report.decided_count} of them decided by the program" if not report.structure_only else ""
    times = f" between {moment(report.first_commit_time)} and {moment(report.last_commit_time)}"
    lines = [
        ("run", report.run_id),
        ("program", f"{report.program} {report.program_version}" if report.program else ""),
        ("content", "destroyed with its key; only the structure is left" if report.structure_only else ""),
        ("facts", f"{report.fact_count}{decided}"),
        ("commits", f"{report.commit_count}{times}" if report.commit_count else ""),
        ("replay", ("without a gap" if report.same else verdict) if report.structure_only else verdict),
        ("replay hash", report.replay_sha256),
        ("commitments", report.commitments_sha256),
    ]
    show_lines(lines)
    for drift in report.drifts:
        _show_drift(drift)
    if report.drift_count > len(report.drifts):
        typer.echo(f"and {report.drift_count - len(report.drifts)} more")


def _show_drift(drift: "Drift") -> None:
    place = ", ".join(part for part in (f"fact {drift.sequence}", drift.path, drift.fact) if part)
    typer.secho(f"\n{one_line(place)}: {one_line(drift.message)}", fg=typer.colors.RED)
    for field in drift.fields:
        typer.echo(f"  {one_line(field.field)}")
        show_lines([("recorded", field.before or "(nothing)"), ("now", field.after or "(nothing)")], indent="    ")


def _replayed(reader: "RunFileReader") -> "Replay":
    if reader.structure_only:
        return _structure_of(reader)
    try:
        from services.orchestrator.record.replaying import Rerun
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "services":
            raise CommandFailed(_NO_PROGRAMS) from error
        raise CommandFailed(f"the package {missing!r} is missing; run `make setup` in the checkout") from error
    rerun = Rerun(reader.run_id)
    for fact in reader.facts():
        rerun.take_fact(fact.entry)
    report = rerun.finish()
    report.commitments_sha256 = reader.manifest["commitments_sha256"]
    return report


def _structure_of(reader: "RunFileReader") -> "Replay":
    """Of a run without content there is nothing to decide: that its commits follow each other is all."""
    from comitia.orchestrator.v1.record_pb2 import Replay

    report = Replay(run_id=reader.run_id, structure_only=True, same=True, fact_count=reader.fact_count)
    for commit in reader.commits():
        report.commit_count += 1
        try:
            report.last_commit_time.FromJsonString(commit.record_time)
        except ValueError as error:
            raise CommandFailed(f"a commit has no time: {commit.record_time[:40]!r}") from error
        if report.commit_count == 1:
            report.first_commit_time.CopyFrom(report.last_commit_time)
    report.commitments_sha256 = reader.manifest["commitments_sha256"]
    return report


def _show_manifest(reader: "RunFileReader") -> None:
    manifest = reader.manifest
    source = manifest.get("forked_from", {})
    lines = [
        ("workflow", _named([manifest["workflow"]]) if "workflow" in manifest else ""),
        ("forked from", f"{source['run_id']} after fact {source['at_sequence']}" if source else ""),
        ("agents", _named(manifest.get("agents", []))),
        ("models", ", ".join(map(one_line, manifest.get("models_answered", [])))),
        ("tools", _named(manifest.get("tools", []))),
        ("law", ", ".join(digest[:12] for digest in manifest.get("bundles", []))),
        ("state", one_line(str(manifest.get("state", "")))),
    ]
    show_lines(lines)


def _named(found: "list[dict[str, Any]]") -> str:
    return ", ".join(one_line(f"{one['name']}@{one['version']} ({one['digest'][:12]})") for one in found)


def _places(count: int) -> str:
    return "place" if count == 1 else "places"


@contextmanager
def _bounds(seconds: int) -> Iterator[None]:
    """Holds time and memory within bounds, and takes the bounds away again."""
    import resource

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise _TookTooLong

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    lower = _MAX_MEMORY_BYTES if soft == resource.RLIM_INFINITY else min(soft, _MAX_MEMORY_BYTES)
    used, most = resource.getrlimit(resource.RLIMIT_CPU)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (lower, hard))
    if used == resource.RLIM_INFINITY:
        # One operation of the interpreter hears no alarm, however long it takes; the system ends it a little later.
        spent = resource.getrusage(resource.RUSAGE_SELF)
        until = int(spent.ru_utime + spent.ru_stime) + seconds + _GRACE_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CPU, (used, most))
