import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import asyncpg
import pytest

from services.launcher import databases, layout
from services.launcher.backups import archive_segment, wal
from services.launcher.backups import manifest as manifests
from services.launcher.backups.manifest import Manifest
from services.launcher.backups.packing import Packer, draft_folder, unpack
from services.launcher.backups.recovery import reached
from services.launcher.backups.restore import Wish, restore
from services.launcher.backups.take import back_up
from services.launcher.embedded.postgres import PostgresRoom
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.options import UpOptions, options_from_json, options_to_json
from services.launcher.record import Addresses, MeshRecord, write_record

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Change = Callable[[Path], object]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ignore(_progress: object) -> None:
    """Nobody watches."""


def a_backup(folder: Path, **changes: object) -> Manifest:
    (folder / "postgres").mkdir(parents=True)
    for name in (manifests.BASE, manifests.WAL):
        (folder / name).write_bytes(b"packed")
    with Packer(folder / manifests.STORES, folder):
        pass
    made = Manifest(
        version=version("comitia"),
        postgres=18,
        start_time=NOON - timedelta(minutes=1),
        end_time=NOON,
        migrations=databases.heads(),
        wal_start="0/2000028",
        wal_end="0/2000120",
        wal_first_segment="000000010000000000000002",
        keks=("0011223344556677",),
        unpacked_bytes=1,
        parts=tuple(manifests.measure(folder, name) for name in (manifests.BASE, manifests.WAL, manifests.STORES)),
    )
    made = replace(made, **changes)  # type: ignore[arg-type]
    manifests.write_manifest(folder, made)
    return made


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    a_backup(tmp_path / "monday")
    return tmp_path / "monday"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys-of-it"
    for name in ("keys/kek", "secrets.json", "admin.key"):
        layout.write_private(folder / name, b"{}")
    return folder


@pytest.fixture
def running(tmp_path: Path) -> Iterator[DataDir]:
    """Gives the data directory of a mesh that seems to run."""
    data = DataDir(tmp_path / "data")
    layout.prepare(data)
    layout.write_private(data.of("postgres") / "PG_VERSION", b"18\n")
    layout.write_state(data, {"ports": {"postgres": 1}})
    a_record(data, version("comitia"))
    with layout.hold(data):
        yield data


def a_record(data: DataDir, release: str) -> None:
    nowhere = Addresses(edge_url=None, edge_target=None, services={}, admin_key_path="", data_dir=str(data.root))
    write_record(
        data,
        MeshRecord(
            started=0, single_process=True, version=release, mtls=False, ready=True, addresses=nowhere, children=()
        ),
    )


def test_a_manifest_is_read_as_it_was_written_and_only_by_its_owner(tmp_path: Path) -> None:
    made = a_backup(tmp_path / "monday")

    assert manifests.read_manifest(tmp_path / "monday") == made
    assert mode(tmp_path / "monday" / manifests.NAME) == 0o600


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda at: (at / manifests.NAME).unlink(), "is no backup: it has no manifest.json"),
        (lambda at: os.truncate(at / manifests.NAME, 100), "its manifest cannot be read"),
        (lambda at: flip(at / manifests.NAME, b'"0/2000028"'), "its manifest is not what was written"),
        (lambda at: (at / manifests.NAME).write_text("[]"), "its manifest cannot be read"),
        (lambda at: reformat(at / manifests.NAME), "of a format that this release does not know"),
        (lambda at: (at / manifests.WAL).unlink(), "pg_wal.tar.gz is missing"),
        (lambda at: os.truncate(at / manifests.BASE, 3), r"base.tar.gz has 3 of 6 bytes"),
        (lambda at: flip(at / manifests.BASE, b"packed"), "base.tar.gz is not what was written"),
    ],
)
def test_a_damaged_backup_is_refused_in_a_sentence_and_nothing_is_left(
    tmp_path: Path, backup: Path, keys: Path, change: Change, sentence: str
) -> None:
    change(backup)
    before = sorted(tmp_path.iterdir())

    with pytest.raises(LauncherError, match=sentence):
        restore(Wish(backup=backup, data_dir=tmp_path / "new", keys=keys), ignore)
    assert sorted(tmp_path.iterdir()) == before


def flip(path: Path, near: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(near) + 2] ^= 1
    path.write_bytes(content)


def reformat(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": "0.0.1"}, r"was taken by 0\.0\.1 with other migrations"),
        ({"migrations": {"cost": "0001"}}, "restore it with that release"),
    ],
)
def test_a_backup_of_another_release_is_refused(
    tmp_path: Path, keys: Path, changes: dict[str, object], sentence: str
) -> None:
    a_backup(tmp_path / "monday", **changes)

    with pytest.raises(LauncherError, match=sentence):
        restore(Wish(backup=tmp_path / "monday", data_dir=tmp_path / "new", keys=keys), ignore)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"keys": None}, "a backup holds no keys"),
        ({"keys": Path("/nowhere")}, "/nowhere does not hold the keys of a mesh"),
        ({"data_dir": Path("/proc")}, "/proc is not empty"),
        ({"data_dir": Path("/nowhere/data")}, "there is no folder /nowhere"),
        ({"until": NOON + timedelta(hours=1)}, "name its archive with --archive"),
        ({"archive": Path("/proc")}, "/proc is no archive"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_and_nothing_is_left(
    tmp_path: Path, backup: Path, keys: Path, wish: dict[str, object], sentence: str
) -> None:
    before = sorted(tmp_path.iterdir())

    with pytest.raises(LauncherError, match=sentence):
        restore(replace(Wish(backup=backup, data_dir=tmp_path / "new", keys=keys), **wish), ignore)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_a_moment_before_the_end_of_the_backup_is_refused(tmp_path: Path, backup: Path, keys: Path) -> None:
    (tmp_path / "archive" / "wal").mkdir(parents=True)
    wish = Wish(
        backup=backup,
        data_dir=tmp_path / "new",
        keys=keys,
        archive=tmp_path / "archive",
        until=NOON - timedelta(seconds=1),
    )

    with pytest.raises(LauncherError, match=r"ended at 2026-03-01 12:00:00 UTC, .* take an older one"):
        restore(wish, ignore)


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, backup: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=0))

    with pytest.raises(LauncherError, match="has 0 MB free, and up to"):
        restore(Wish(backup=backup, data_dir=tmp_path / "new", keys=keys), ignore)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="cannot be written"), draft_folder(tmp_path / "new") as draft:
        (draft / "half").touch()
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_came_into_the_place_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="cannot be written"), draft_folder(tmp_path / "new"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "theirs"]


def test_a_backup_needs_a_mesh_that_runs(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="no mesh is running on"):
        back_up(tmp_path / "monday", data_dir=tmp_path / "data", keys=None, report=ignore)


def test_a_backup_needs_a_mesh_of_its_own_release(tmp_path: Path, running: DataDir) -> None:
    a_record(running, "0.0.1")

    with pytest.raises(LauncherError, match=r"the mesh runs 0\.0\.1, and this command is of"):
        back_up(tmp_path / "monday", data_dir=running.root, keys=None, report=ignore)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("data/monday", "lies in the data directory"),
        ("nowhere/monday", "there is no folder"),
        ("taken", "exists already"),
    ],
)
def test_a_backup_goes_to_a_free_place_outside_of_the_mesh(
    tmp_path: Path, running: DataDir, target: str, sentence: str
) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(LauncherError, match=sentence):
        back_up(tmp_path / target, data_dir=running.root, keys=None, report=ignore)
    with pytest.raises(LauncherError, match=sentence):
        back_up(tmp_path / "monday", data_dir=running.root, keys=tmp_path / target, report=ignore)


def test_a_postgres_that_does_not_answer_leaves_nothing(tmp_path: Path, running: DataDir) -> None:
    with pytest.raises(LauncherError, match="does not answer"):
        back_up(tmp_path / "monday", data_dir=running.root, keys=None, report=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_files_are_packed_once_however_often_they_are_looked_for(tmp_path: Path) -> None:
    store = tmp_path / "data" / "objects"
    store.mkdir(parents=True)
    (store / "first").write_bytes(b"1")
    (store / "half.draft").touch()
    with Packer(tmp_path / "stores.tar", tmp_path / "data") as packer:
        before = packer.add("objects", "absent")
        (store / "second").write_bytes(b"22")
        after = packer.add("objects")
    unpack(tmp_path / "stores.tar", tmp_path / "back")

    assert (before, after, packer.bytes) == (1, 1, 3)
    assert sorted(path.name for path in (tmp_path / "back" / "objects").iterdir()) == ["first", "second"]
    assert mode(tmp_path / "stores.tar") == 0o600
    assert mode(tmp_path / "back" / "objects") == 0o700


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("no tar")

    with pytest.raises(LauncherError, match="cannot be unpacked"):
        unpack(tmp_path / "keys", tmp_path / "back")


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
    assert mode(kept) == 0o600
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


def test_a_launcher_in_the_background_is_told_where_the_archive_is() -> None:
    asked = UpOptions(data_dir=Path("/data"), archive_wal=Path("/archive"))

    assert options_from_json(options_to_json(asked)) == asked
    assert options_from_json(options_to_json(UpOptions())) == UpOptions()


def test_a_release_before_did_not_say_what_it_is(running: DataDir) -> None:
    said = json.loads(running.mesh.read_bytes())
    del said["version"]
    running.mesh.write_text(json.dumps(said))

    with pytest.raises(LauncherError, match="the mesh runs an older release"):
        back_up(running.root.parent / "monday", data_dir=running.root, keys=None, report=ignore)
