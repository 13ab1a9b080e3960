"""Sign-ins that are kept, and who calls because of them."""

import stat
from pathlib import Path
from typing import Any

import pytest

from comitia_sdk.context import find_context
from comitia_sdk.login.stored import Logins, StoredLogin, find_config_dir

URL = "http://127.0.0.1:7400"


def a_login(**changes: Any) -> StoredLogin:
    values: dict[str, Any] = {
        "tenant": "acme",
        "issuer": "https://p",
        "client_id": "comitia",
        "token_endpoint": "https://p/t",
        "id_token": "SECRET-ID",
        "refresh_token": "SECRET-REFRESH",
        "access_token": "SECRET-ACCESS",
    }
    return StoredLogin(**{**values, **changes})


def test_a_sign_in_is_kept_for_its_mesh_and_for_this_user_alone(tmp_path: Path) -> None:
    logins = Logins(tmp_path / "deep" / "settings")
    assert logins.get(URL) is None
    logins.put(URL, a_login())
    logins.put("https://mesh.example.com", a_login(tenant="other"))
    assert logins.get("http://localhost:7400/") == a_login()
    file = tmp_path / "deep" / "settings" / "logins.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")] == ["logins.json"]
    assert logins.remove(URL)
    assert not logins.remove(URL)
    kept = logins.get("HTTPS://mesh.example.com/")
    assert kept is not None
    assert kept.tenant == "other"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"http://127.0.0.1:7400": 7}', b'{"http://127.0.0.1:7400": {}}']
)
def test_a_damaged_file_is_nobodys_sign_in_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "logins.json").write_bytes(content)
    logins = Logins(tmp_path)
    assert logins.get(URL) is None
    logins.put(URL, a_login())
    assert logins.get(URL) == a_login()


def test_a_field_of_a_later_release_is_passed_over(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    logins.put(URL, a_login())
    file = tmp_path / "logins.json"
    file.write_text(file.read_text().replace('"tenant"', '"later": 1, "tenant"'))
    assert logins.get(URL) == a_login()


def test_no_secret_is_shown_when_a_sign_in_is_printed() -> None:
    assert "SECRET" not in repr(a_login())


def test_the_folder_of_settings_is_found() -> None:
    assert find_config_dir({"COMITIA_CONFIG_DIR": "/x"}) == Path("/x")
    assert find_config_dir({"XDG_CONFIG_HOME": "/y"}) == Path("/y/comitia")
    assert find_config_dir({}) == Path.home() / ".config" / "comitia"


def test_a_key_goes_before_a_person_and_a_person_before_the_local_key(tmp_path: Path) -> None:
    environment = {"COMITIA_CONFIG_DIR": str(tmp_path), "COMITIA_DATA_DIR": str(tmp_path)}
    (tmp_path / "mesh.json").write_text(
        f'{{"addresses": {{"edge_url": "{URL}", "admin_key_path": "{tmp_path}/admin"}}}}'
    )
    (tmp_path / "admin").write_text("ck_local")
    assert find_context(environment=environment).api_key == "ck_local"
    Logins(tmp_path).put(URL, a_login())
    found = find_context(environment=environment)
    assert (found.api_key, found.login is not None) == ("", True)
    found = find_context(environment={**environment, "COMITIA_API_KEY": "ck_mine"})
    assert (found.api_key, found.login) == ("ck_mine", None)
    assert find_context(url="https://mesh.example.com", environment=environment).login is None
