"""Settings as the environment gives them."""

import pytest

from services.tools.settings import ToolsSettings

REQUIRED = {
    "DATABASE_URL": "postgresql://a@b/c",
    "MAINTENANCE_DATABASE_URL": "postgresql://a@b/c",
    "LISTEN": "127.0.0.1:0",
    "JWKS_PATH": "/a",
    "WORKLOAD_KEY_PATH": "/b",
    "WORKLOAD_JWKS_PATH": "/c",
    "KEK_PATH": "/d",
}


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        (None, ()),
        ("", ()),
        ("a.example", ("a.example",)),
        ("a.example, *.b.example ,", ("a.example", "*.b.example")),
        ('["a.example", "b.example"]', ("a.example", "b.example")),
    ],
)
def test_hosts_are_a_list_by_commas_or_json(
    monkeypatch: pytest.MonkeyPatch, value: str | None, hosts: tuple[str, ...]
) -> None:
    for name, text in REQUIRED.items():
        monkeypatch.setenv(f"COMITIA_TOOLS_{name}", text)
    if value is not None:
        monkeypatch.setenv("COMITIA_TOOLS_HTTP_ALLOWED_HOSTS", value)
    settings = ToolsSettings.model_validate({})
    assert settings.http_allowed_hosts == hosts
    assert not settings.allow_private_addresses
