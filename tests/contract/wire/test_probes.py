"""How providers are looked at without a prompt: what is sent, and what is made of the answer."""

import socket
from collections.abc import AsyncIterator

import pytest

from services.inference.domain.deployment import DeploymentVersion
from services.inference.providers.catalogue import CATALOGUE
from services.inference.providers.egress import Egress, EgressRule
from services.inference.providers.http import provider_http
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import Probe
from services.meshkit.core.secret import NO_SECRET, Secret
from tests.integration.conftest import free_port
from tests.support.providers.fake import KEY, FakeProvider, fake_provider

SPOKEN = [(name, "anthropic" if name == "anthropic" else "openai") for name in CATALOGUE]


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


async def found(
    adapter: str, base_url: str, *, egress: Egress = Egress.ANY, key: Secret = NO_SECRET, seconds: float = 2.0
) -> Probe:
    spec = CATALOGUE[adapter]
    assert spec.probe is not None
    async with provider_http(connections=2, egress=EgressRule(egress)) as http:
        prober = spec.probe(http, Endpoint(base_url=base_url, key=key))
        version = DeploymentVersion(name="acme/any", adapter=adapter, model="any")
        return await prober.probe(version, seconds=seconds)


@pytest.mark.parametrize(("adapter", "dialect"), SPOKEN)
async def test_every_adapter_asks_only_which_models_there_are(adapter: str, dialect: str, server: FakeProvider) -> None:
    base_url = server.anthropic_base_url if dialect == "anthropic" else server.openai_base_url
    probe = await found(adapter, base_url, key=Secret(KEY))
    assert probe.failure == ""
    assert probe.latency_us > 0
    (sent,) = server.looks
    shown = sent["x-api-key"] if dialect == "anthropic" else sent["authorization"].removeprefix("Bearer ")
    assert shown == KEY
    assert sent.get("content-length", "0") == "0"
    assert not server.meter.calls


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (404, ""),
        (401, "PROVIDER_REFUSED"),
        (429, "PROVIDER_RATE_LIMITED"),
        (500, "PROVIDER_UNAVAILABLE"),
        (503, "PROVIDER_UNAVAILABLE"),
    ],
)
async def test_a_server_that_answers_is_there_unless_it_says_otherwise(
    status: int, failure: str, server: FakeProvider
) -> None:
    server.look_status = status
    assert (await found("vllm", server.openai_base_url)).failure == failure


async def test_nobody_there_a_silent_one_and_one_outside_are_told_apart() -> None:
    assert (await found("vllm", f"http://127.0.0.1:{free_port()}/v1")).failure == "PROVIDER_UNAVAILABLE"
    outside = await found("openai", "http://203.0.113.7:9/v1", egress=Egress.MESH)
    assert outside.failure == "EGRESS_REFUSED"

    # Connections are made, and nobody ever says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert (await found("vllm", base_url, seconds=0.05)).failure == "PROVIDER_UNAVAILABLE"
