"""The archive of the write-ahead log: what Postgres hands to it, and what a recovery takes from it."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import asyncpg
import pytest

from services.launcher.backups import archive_segment, wal
from services.launcher.backups.recovery import reached
from services.launcher.embedded.postgres import PostgresRoom
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir


@pytest.mark.parametrize(
    ("timeline", "position", "segment"),
    [(1, "0/2000028", "000000010000000000000002"), (2, "1A/FF000000", "000000020000001A000000FF")],
)
def test_a_position_of_the_log_lies_in_a_segment(timeline: int, position: str, segment: str) -> None:
    assert wal.segment_of(timeline, position) == segment


def a_segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


@pytest.mark.parametrize(
    ("archived", "replayed", "sentence"),
    [
        ((2, 3, 4), "0/5000000", ""),
        ((2, 3, 4), "0/4FFFF00", ""),
        ((2, 3, 4), "0/3FFFF00", ""),
        ((), "0/2000120", ""),
        ((2, 3, 5, 6), "0/4000000", f"the archive lacks segment {a_segment(4)}; later ones that were not restored: 2"),
        ((2, 3, 5, 6), "0/3FFFF00", f"the archive lacks segment {a_segment(4)}; later ones that were not restored: 2"),
        ((2, 3, 5), "0/2FFFF00", f"the archive lacks segment {a_segment(4)}; later ones that were not restored: 1"),
        ((254, 255, 257), "1/0", f"the archive lacks segment {a_segment(256)}; later ones that were not restored: 1"),
        (
            (2, 3, 4, 5),
            "0/3000000",
            f"the log breaks off before segment {a_segment(3)}; segments that were not restored: 3",
        ),
    ],
)
def test_a_recovery_that_ended_at_a_gap_of_the_archive_is_no_recovery_to_its_end(
    tmp_path: Path, archived: tuple[int, ...], replayed: str, sentence: str
) -> None:
    (tmp_path / "wal").mkdir()
    for name in (*map(a_segment, archived), a_segment(9, timeline=2), "00000002.history", f".{a_segment(8)}.gz.new"):
        (tmp_path / "wal" / f"{name}.gz").touch()

    said = wal.unrestored(wal.segments_of(tmp_path, 1), 1, replayed)
    assert said.startswith(sentence)
    assert bool(said) == bool(sentence)


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "pg_wal" / "000000010000000000000002"
    path.parent.mkdir()
    path.write_bytes(b"log" * 1000)
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", archive_segment.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_segment_comes_back_from_the_archive(tmp_path: Path, segment: Path) -> None:
    archive, data = tmp_path / "archive", tmp_path / "data"

    assert run("put", segment, archive, data).returncode == 0
    assert run("put", segment, archive, data).returncode == 0
    assert run("get", segment.name, tmp_path / "back", archive).returncode == 0

    kept = archive_segment.segment_path(archive, segment.name)
    assert (tmp_path / "back").read_bytes() == segment.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (asyncpg.InvalidPasswordError("wrong"), "the keys are not those of this backup"),
        (asyncpg.TooManyConnectionsError("full"), r"the restored Postgres does not answer \(full\)"),
        (ConnectionRefusedError("gone"), r"the restored Postgres does not answer \(gone\)"),
    ],
)
async def test_only_a_refused_password_means_other_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, sentence: str
) -> None:
    async def fail(_address: str) -> NoReturn:
        raise failure

    monkeypatch.setattr(asyncpg, "connect", fail)
    with pytest.raises(LauncherError, match=sentence):
        await reached(PostgresRoom(directory=tmp_path, port=1, log=tmp_path / "log", password=""))


def test_a_segment_of_another_history_is_never_written_over(tmp_path: Path, segment: Path) -> None:
    run("put", segment, tmp_path / "archive", tmp_path / "data")
    segment.write_bytes(b"other")
    refused = run("put", segment, tmp_path / "archive", tmp_path / "data")

    assert refused.returncode == 1
    assert "holds another segment of this name" in refused.stderr
    with gzip.open(archive_segment.segment_path(tmp_path / "archive", segment.name)) as kept:
        assert kept.read() == b"log" * 1000


def test_a_recovery_is_told_the_end_of_the_archive_from_damage(tmp_path: Path, segment: Path) -> None:
    archive = tmp_path / "archive"
    run("put", segment, archive, tmp_path / "data")
    absent = run("get", "000000010000000000000003", tmp_path / "back", archive)
    os.truncate(archive_segment.segment_path(archive, segment.name), 20)
    damaged = run("get", segment.name, tmp_path / "back", archive)

    assert absent.returncode == 1
    assert damaged.returncode == 126
    assert f"the archived segment {segment.name} cannot be read" in damaged.stderr


def test_objects_are_archived_with_the_log_that_names_them_and_stay(tmp_path: Path, segment: Path) -> None:
    store, kept = (
        tmp_path / "data" / "orchestrator" / "objects",
        tmp_path / "archive" / "stores" / "orchestrator" / "objects",
    )
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / "one").write_bytes(b"sealed")
    (store / "blobs" / "two.draft").touch()
    run("put", segment, tmp_path / "archive", tmp_path / "data")
    (store / "blobs" / "one").unlink()
    run("put", segment, tmp_path / "archive", tmp_path / "data")

    assert [path.name for path in kept.rglob("*")] == ["blobs", "one"]
    assert (kept / "blobs" / "one").read_bytes() == b"sealed"


def test_an_archive_belongs_to_one_mesh_and_lies_outside_of_it(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path / "first"), DataDir(tmp_path / "second")
    archive = tmp_path / "of 100 % of it"

    settings = wal.archiving(first, archive)
    assert wal.archiving(first, archive) == settings
    assert f"%p '{tmp_path}/of 100 %% of it' {first.root}" in settings["archive_command"]
    with pytest.raises(LauncherError, match="is that of another mesh"):
        wal.archiving(second, archive)
    with pytest.raises(LauncherError, match="lies in the data directory"):
        wal.archiving(first, first.root / "archive")
    with pytest.raises(LauncherError, match="cannot be written"):
        wal.archiving(first, Path("/proc/archive"))


def test_a_postgres_of_another_account_is_not_archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "identity_of", lambda _programs: "65534:65534")
    room = PostgresRoom(directory=tmp_path / "postgres", port=1, log=tmp_path / "log", password="")

    with pytest.raises(LauncherError, match="root runs Postgres as another account here"):
        wal.refuse_other_account(room)
