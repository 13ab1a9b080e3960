import json
from pathlib import Path

import pytest

from comitia_sdk.context import DEFAULT_URL, find_context

LOCAL = "http://127.0.0.1:7555"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Gives the data directory of a mesh on this machine."""
    key = tmp_path / "admin.key"
    key.write_text("ck_local_key\n", encoding="utf-8")
    record = {"addresses": {"edge_url": LOCAL, "admin_key_path": str(key)}}
    (tmp_path / "mesh.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_the_mesh_on_this_machine_is_found_by_its_record(data_dir: Path) -> None:
    found = find_context(environment={"COMITIA_DATA_DIR": str(data_dir)})

    assert (found.url, found.api_key) == (LOCAL, "ck_local_key")


def test_arguments_win_over_the_environment_and_that_over_the_record(data_dir: Path) -> None:
    variables = {"COMITIA_URL": "http://mesh.example:80", "COMITIA_API_KEY": "ck_variable"}

    by_variable = find_context(data_dir=data_dir, environment=variables)
    by_argument = find_context(url="http://other:1", api_key="ck_argument", data_dir=data_dir, environment=variables)

    assert (by_variable.url, by_variable.api_key) == ("http://mesh.example:80", "ck_variable")
    assert (by_argument.url, by_argument.api_key) == ("http://other:1", "ck_argument")


@pytest.mark.parametrize("url", ["http://mesh.example:7555", "https://127.0.0.1:7555", "http://127.0.0.1:7400"])
def test_the_local_admin_key_is_never_sent_to_another_mesh(data_dir: Path, url: str) -> None:
    assert find_context(url=url, data_dir=data_dir, environment={}).api_key == ""
    assert find_context(data_dir=data_dir, environment={"COMITIA_URL": url}).api_key == ""


@pytest.mark.parametrize("url", [LOCAL, f"{LOCAL}/", "http://localhost:7555", "127.0.0.1:7555"])
def test_the_local_admin_key_goes_with_any_spelling_of_its_own_address(data_dir: Path, url: str) -> None:
    assert find_context(url=url, data_dir=data_dir, environment={}).api_key == "ck_local_key"


@pytest.mark.parametrize("record", [None, b"", b"{not json", b"[]", b"{}", b'{"addresses": 7}', b"\xff\xfe"])
def test_without_a_readable_record_the_usual_address_is_taken(tmp_path: Path, record: bytes | None) -> None:
    if record is not None:
        (tmp_path / "mesh.json").write_bytes(record)

    found = find_context(data_dir=tmp_path, environment={})

    assert (found.url, found.api_key) == (DEFAULT_URL, "")


def test_a_key_is_not_shown_when_a_context_is_printed() -> None:
    assert "ck_secret" not in repr(find_context(url="http://x:1", api_key="ck_secret", environment={}))
