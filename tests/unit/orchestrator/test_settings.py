"""What the orchestrator reads from its environment."""

from datetime import timedelta

import pytest
from pydantic import SecretStr, ValidationError

from services.meshkit.core.ids import to_uuid
from services.orchestrator.settings import OrchestratorSettings

TENANT = "tenant_01m7zensjaez085ykt020fzfy1"
NEEDED = {
    "LISTEN": "127.0.0.1:0",
    "DATABASE_URL": "postgresql://app@/x",
    "MAINTENANCE_DATABASE_URL": "postgresql://maintenance@/x",
    "JWKS_PATH": "jwks",
    "WORKLOAD_KEY_PATH": "key",
    "WORKLOAD_JWKS_PATH": "keys",
    "OBJECT_STORE": "objects",
    "GUARD_PATH": "guard",
}


def settings(monkeypatch: pytest.MonkeyPatch, **more: str) -> OrchestratorSettings:
    for name, value in {**NEEDED, **more}.items():
        monkeypatch.setenv(f"COMITIA_ORCHESTRATOR_{name}", value)
    return OrchestratorSettings()  # pyright: ignore[reportCallIssue]  # from the environment


def test_tenants_may_have_retentions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(monkeypatch, RUN_HOT_DAYS_OF=f'{{"{TENANT}": 30}}')
    assert read.own_retentions == {to_uuid(TENANT, "tenant"): timedelta(days=30)}
    assert read.database_url == SecretStr("postgresql://app@/x")
    assert settings(monkeypatch, RUN_HOT_DAYS_OF="{}").own_retentions == {}


@pytest.mark.parametrize("given", ['{"acme": 30}', f'{{"{TENANT}": 0}}', f'{{"{TENANT}": "long"}}', "30"])
def test_retentions_that_mean_nothing_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with pytest.raises((ValidationError, ValueError)):
        settings(monkeypatch, RUN_HOT_DAYS_OF=given)
