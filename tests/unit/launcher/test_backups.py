import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from services.launcher import admin, databases, layout
from services.launcher.backups import manifest as manifests
from services.launcher.backups import take
from services.launcher.backups.manifest import Manifest
from services.launcher.backups.packing import Packer, draft_folder, unpack
from services.launcher.backups.restore import Wish, restore
from services.launcher.backups.take import back_up
from services.launcher.bring_up import BringUp
from services.launcher.children import Supervisor
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.options import UpOptions, options_from_json, options_to_json
from services.launcher.ports import PortClaims
from services.launcher.record import Addresses, MeshRecord, write_record
from services.meshkit.testing.fake_clock import FakeClock

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
        prefix="comitia",
        archive_owner="0123456789abcdef",
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
    archive = an_archive(tmp_path, "0123456789abcdef")
    until = NOON - timedelta(seconds=1)
    wish = Wish(backup=backup, data_dir=tmp_path / "new", keys=keys, archive=archive, until=until)

    with pytest.raises(LauncherError, match=r"ended at 2026-03-01 12:00:00 UTC, .* take an older one"):
        restore(wish, ignore)


def an_archive(tmp_path: Path, owner: str | None) -> Path:
    (tmp_path / "archive" / "wal").mkdir(parents=True)
    if owner is not None:
        (tmp_path / "archive" / "owner").write_text(owner)
    return tmp_path / "archive"


@pytest.mark.parametrize("owner", [None, "another"])
def test_the_archive_of_another_mesh_is_refused_before_anything_is_unpacked(
    tmp_path: Path, backup: Path, keys: Path, owner: str | None
) -> None:
    wish = Wish(backup=backup, data_dir=tmp_path / "new", keys=keys, archive=an_archive(tmp_path, owner))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(LauncherError, match="is not that of the mesh which the backup is of"):
        restore(wish, ignore)
    assert sorted(tmp_path.iterdir()) == before


def test_a_backup_with_other_names_of_databases_is_refused_before_anything_is_unpacked(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_backup(tmp_path / "monday", prefix="blue")
    wish = Wish(backup=tmp_path / "monday", data_dir=tmp_path / "new", keys=keys)

    with pytest.raises(LauncherError, match="begin with 'blue', and COMITIA_DATABASE_PREFIX says 'comitia'"):
        restore(wish, ignore)
    monkeypatch.setenv("COMITIA_DATABASE_PREFIX", "blue")
    with pytest.raises(LauncherError, match="cannot be unpacked"):
        restore(wish, ignore)


def test_a_mesh_keeps_what_the_names_of_its_databases_begin_with(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert admin.remembered_prefix(data, {"COMITIA_DATABASE_PREFIX": "blue"}) == "blue"
    layout.write_state(data, {"ports": {"postgres": 1}})

    for _ in range(2):
        admin.remember_prefix(data, "blue")
    with pytest.raises(LauncherError, match="begin with 'blue', and COMITIA_DATABASE_PREFIX says 'comitia'"):
        admin.remember_prefix(data, "comitia")
    assert admin.remembered_prefix(data, {}) == "blue"
    assert layout.read_state(data)["ports"] == {"postgres": 1}


async def test_a_mesh_does_not_start_with_other_names_of_databases(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    layout.prepare(data)
    layout.write_state(data, {"database_prefix": "blue"})
    supervisor = Supervisor(clock=FakeClock(), dice=Random(0), report=ignore, changed=lambda: None)
    start = BringUp(data=data, options=UpOptions(random_ports=True), supervisor=supervisor, report=ignore, user={})

    with PortClaims() as claims, pytest.raises(LauncherError, match="begin with 'blue'"):
        start.settle(claims)


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, backup: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=0))

    with pytest.raises(LauncherError, match="has 0 MB free, and up to"):
        restore(Wish(backup=backup, data_dir=tmp_path / "new", keys=keys), ignore)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    said = r"new is not made \(No space left on device\)"
    with pytest.raises(LauncherError, match=said), draft_folder(tmp_path / "new") as draft:
        (draft / "half").touch()
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named_and_not_the_place_for_it(tmp_path: Path) -> None:
    said = r"new is not made \(/nowhere/secrets\.json: No such file or directory\)"
    with pytest.raises(LauncherError, match=said), draft_folder(tmp_path / "new"):
        Path("/nowhere/secrets.json").read_bytes()
    with pytest.raises(LauncherError, match="/proc/new cannot be written"), draft_folder(Path("/proc/new")):
        pass


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


def test_the_keys_never_take_the_place_of_the_backup(tmp_path: Path, running: DataDir) -> None:
    (tmp_path / "same").symlink_to(tmp_path)

    for keys in (tmp_path / "monday", tmp_path / "same" / "monday"):
        with pytest.raises(LauncherError, match="keep them in another place"):
            back_up(tmp_path / "monday", data_dir=running.root, keys=keys, report=ignore)


def test_keys_do_not_stay_when_the_last_step_of_a_backup_fails(
    tmp_path: Path, running: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def now(*_of: object) -> object:
        return SimpleNamespace(now=NOON, migrations=databases.heads())

    def write(*_of: object) -> None:
        (tmp_path / "monday").mkdir()
        (tmp_path / "monday" / "theirs").touch()

    monkeypatch.setattr(take, "_moment", now)
    monkeypatch.setattr(take, "_write", write)
    with pytest.raises(LauncherError, match="monday cannot be written"):
        back_up(tmp_path / "monday", data_dir=running.root, keys=tmp_path / "monday.keys", report=ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "monday"]


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
