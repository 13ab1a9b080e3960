"""A backup of a mesh that works, brought back and looked through, without starting it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comitia_sdk.sync import Client
from services.launcher.keys import ensure_keys, read_secrets
from services.launcher.layout import DataDir, prepare
from tests.support.mesh import RunningMesh


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gives a folder that Postgres may enter, whoever runs it."""
    made = Path(tempfile.mkdtemp(prefix="comitia-backup-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_backup_of_a_mesh_at_work_is_restored_and_sound(mesh: RunningMesh, folder: Path) -> None:
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        client.memories.remember("Rivers meet in a backup.")
    keys = folder / "keys"
    taken = json.loads(mesh.comitia("backup", str(folder / "monday"), "--keys", str(keys), "-o", "json").stdout)
    made = mesh.comitia(
        *("restore", str(folder / "monday"), "--keys", str(keys), "--data-dir", str(folder / "new"), "--runs", "20"),
        *("-o", "json"),
    )

    assert [part["name"] for part in taken["parts"]] == ["postgres/base.tar.gz", "postgres/pg_wal.tar.gz", "stores.tar"]
    found = json.loads(made.stdout)
    assert found["sound"], found
    assert len(found["checks"]) == 6
    assert (folder / "new" / "admin.key").read_bytes() == (mesh.data_dir / "admin.key").read_bytes()
    assert {path.stat().st_mode & 0o077 for path in (folder / "monday").rglob("*")} == {0}

    others = DataDir(folder / "others")
    prepare(others)
    ensure_keys(others)
    read_secrets(others, ["postgres"])
    before = sorted(folder.iterdir())
    refused = mesh.comitia(
        *("restore", str(folder / "monday"), "--keys", str(others.root), "--data-dir", str(folder / "third")), check=1
    )
    assert "the keys are not those of this backup" in refused.stderr
    assert sorted(folder.iterdir()) == before


def test_a_mesh_at_work_is_found_sound(mesh: RunningMesh) -> None:
    found = json.loads(mesh.comitia("check", "--runs", "20", "-o", "json").stdout)
    assert found["sound"], found
    assert found["checks"][0]["what"] == "7 databases at their last migration"
