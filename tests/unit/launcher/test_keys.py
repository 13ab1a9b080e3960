import json
import stat
from pathlib import Path

import pytest

from services.launcher import keys, layout
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.grpc.identity import WorkloadSigner, WorkloadVerifier
from services.meshkit.grpc.signed_token import KeySetFile, SigningKey


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path / "data")
    layout.prepare(found)
    keys.ensure_keys(found)
    return found


def test_every_secret_is_readable_by_its_owner_only(data: DataDir) -> None:
    keys.read_secrets(data, ["postgres"])

    files = [path for path in data.root.rglob("*") if path.is_file()]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {path.name: 0o600 for path in files}


def test_a_second_time_changes_nothing(data: DataDir) -> None:
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}

    keys.ensure_keys(data)

    assert {path: path.read_bytes() for path in before} == before


async def test_the_services_read_what_the_launcher_makes(data: DataDir) -> None:
    await KekFile.read(data.kek)
    assert json.loads(data.jwks.read_bytes())["keys"][0]["kid"] == SigningKey.read(data.signing_key).kid


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_known_by_its_assertion(data: DataDir, service: str) -> None:
    clock = SystemClock()
    signer = WorkloadSigner(service, SigningKey.read(data.workload_key(service)), clock=clock)
    verifier = WorkloadVerifier(KeySetFile(data.workload_jwks, clock=clock), clock=clock)

    assert verifier.verify(signer.assertion()) == service


def test_the_administrators_key_has_the_form_of_an_api_key(data: DataDir) -> None:
    prefix, key_id, secret = data.bootstrap_key.read_text().strip().split("_")

    assert (prefix, len(key_id)) == ("ck", 26)
    assert len(secret) == 64


def test_each_role_has_a_password_of_its_own(data: DataDir) -> None:
    databases = keys.find_databases(data, "postgresql://a@b/c", {})

    assert len(databases.passwords) == len(set(databases.passwords.values())) == 21
    assert keys.find_databases(data, "postgresql://a@b/c", {}) == databases


def test_secrets_of_a_release_before_that_cannot_be_written_say_nobody_as_owner(data: DataDir) -> None:
    made = keys.find_databases(data, "postgresql://a@b/c", {})
    known = json.loads(data.secrets.read_bytes())
    del known["installation"]
    data.secrets.write_text(json.dumps(known))
    data.secrets.with_name(".secrets.json.new").mkdir()

    found = keys.find_databases(data, "postgresql://a@b/c", {})
    assert (found.installation, found.passwords) == (None, made.passwords)


def test_passwords_that_cannot_be_read_or_kept_are_said_in_one_sentence(data: DataDir) -> None:
    data.secrets.write_bytes(b"\xff{")
    with pytest.raises(LauncherError, match=r"secrets\.json is damaged; put a copy of it back"):
        keys.find_databases(data, "postgresql://a@b/c", {})
    data.secrets.unlink()
    # As where it is mounted by itself: nothing can take its place.
    data.secrets.with_name(".secrets.json.new").mkdir()
    with pytest.raises(LauncherError, match=r"json lacks cost/app and cannot be written \(Is a directory\)"):
        keys.find_databases(data, "postgresql://a@b/c", {})
