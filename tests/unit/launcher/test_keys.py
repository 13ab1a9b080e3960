import json
import stat
from pathlib import Path

import pytest

from services.launcher import keys, layout
from services.launcher.layout import DataDir
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.grpc.identity import WorkloadSigner, WorkloadVerifier
from services.meshkit.grpc.signed_token import KeySetFile, SigningKey

KEY_ID = "01jx0000000000000000000000"


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path / "data")
    layout.prepare(found)
    keys.ensure_keys(found, KEY_ID)
    return found


def test_every_secret_is_readable_by_its_owner_only(data: DataDir) -> None:
    keys.read_secrets(data, ["postgres"])

    files = [path for path in data.root.rglob("*") if path.is_file()]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {path.name: 0o600 for path in files}


def test_a_second_time_changes_nothing(data: DataDir) -> None:
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}

    keys.ensure_keys(data, "01jy0000000000000000000000")

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

    assert (prefix, key_id) == ("ck", KEY_ID)
    assert len(secret) == 64


def test_each_role_has_a_password_of_its_own(data: DataDir) -> None:
    passwords = keys.role_passwords(data)

    assert len(passwords) == len(set(passwords.values())) == 21
    assert keys.role_passwords(data) == passwords
