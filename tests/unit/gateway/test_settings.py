"""What the gateway's settings refuse."""

import pytest
from pydantic import ValidationError

from services.gateway.settings import GatewaySettings


def settings(url: str, token: str) -> GatewaySettings:
    required = [name for name, field in GatewaySettings.model_fields.items() if field.is_required()]
    databases = {name: "postgresql://127.0.0.1/gateway" for name in required if name.endswith("database_url")}
    return GatewaySettings.model_validate(
        dict.fromkeys(required, "127.0.0.1:1")
        | databases
        | {"openfga_url": url, "openfga_store_id": "0" * 26, "openfga_token": token}
    )


@pytest.mark.parametrize("url", ["http://openfga:8080", "http://10.0.0.1:8080", "http://127.0.0.1.example.com"])
def test_a_key_of_an_openfga_server_does_not_leave_this_machine_in_the_clear(url: str) -> None:
    with pytest.raises(ValidationError, match="openfga_url must be https"):
        settings(url, "a-preshared-key")
    assert settings(url, "").openfga_url == url


@pytest.mark.parametrize("url", ["https://openfga:8080", "http://127.0.0.1:8080", "http://localhost:8080"])
def test_a_key_of_an_openfga_server_goes_by_tls_or_stays_on_this_machine(url: str) -> None:
    assert settings(url, "a-preshared-key").openfga_url == url
