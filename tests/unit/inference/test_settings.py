"""Where keys of providers come from."""

import pytest

from services.inference.chain import configured
from services.inference.settings import InferenceSettings

REQUIRED = {
    "LISTEN": "127.0.0.1:0",
    "DATABASE_URL": "postgresql://x",
    "MAINTENANCE_DATABASE_URL": "postgresql://x",
    "JWKS_PATH": "x",
    "WORKLOAD_KEY_PATH": "x",
    "WORKLOAD_JWKS_PATH": "x",
    "KEK_PATH": "x",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(f"COMITIA_INFERENCE_{name}", value)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def key_of(settings: InferenceSettings) -> str | None:
    return settings.openai_api_key.get_secret_value() if settings.openai_api_key else None


def test_without_a_key_a_provider_is_not_asked() -> None:
    settings = InferenceSettings()  # type: ignore[call-arg]
    assert settings.openai_api_key is None
    assert settings.anthropic_api_key is None


def test_the_variable_of_the_providers_own_sdk_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    assert key_of(InferenceSettings()) == "sk-theirs"  # type: ignore[call-arg]


def test_our_variable_wins_and_an_empty_one_switches_the_provider_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    monkeypatch.setenv("COMITIA_INFERENCE_OPENAI_API_KEY", "sk-ours")
    assert key_of(InferenceSettings()) == "sk-ours"  # type: ignore[call-arg]
    monkeypatch.setenv("COMITIA_INFERENCE_OPENAI_API_KEY", "")
    assert key_of(InferenceSettings()) is None  # type: ignore[call-arg]


def test_limits_of_a_provider_hold_for_its_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    monkeypatch.setenv("COMITIA_INFERENCE_LOCAL_MODEL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("COMITIA_INFERENCE_PROVIDER_LIMITS", '{"openai": {"max_concurrency": 3}}')
    openai, local, *_ = configured(InferenceSettings()).generators("default")  # type: ignore[call-arg]
    assert (openai.max_concurrency, openai.requests_per_minute, local.max_concurrency) == (3, 0, 0)


def test_networks_and_hosts_are_lists_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITIA_INFERENCE_MESH_NETWORKS", "10.0.0.0/8, fd00::/8")
    monkeypatch.setenv("COMITIA_INFERENCE_EGRESS_HOSTS", "api.openai.com")
    settings = InferenceSettings()  # type: ignore[call-arg]
    assert [str(one) for one in settings.mesh_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert (settings.egress, settings.egress_hosts) == ("any", ("api.openai.com",))
