"""Where prompts may go: what points outside is refused, and nothing is connected to, or looked up, out there."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from services.inference.domain.answer import Finished
from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import Charge, EgressRefused, ProviderFailure, ProviderUnavailable
from services.inference.providers.anthropic.messages import AnthropicProvider
from services.inference.providers.egress import Egress, EgressRule
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.providers.openai.chat import ChatProvider, Endpoint
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.usecases.ports import ModelProvider
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from services.meshkit.outward.addresses import AddressRefused, AddressRule
from tests.support.inference import a_prompt, a_provider_call
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider

CLEARANCE = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(1)), verdict_id="verdict_1")
DEPLOYMENT = DeploymentVersion(name="openai/gpt-4o-mini", adapter=Adapter.OPENAI, model="gpt-4o-mini")
MESH = EgressRule(Egress.MESH, networks=(IPv4Network("10.1.0.0/16"), IPv6Network("fd00::/8")))
LISTED = EgressRule(Egress.LISTED, hosts=("API.example.com", "inside.example.com"))
#: Of nobody: from RFC 5737.
OUTSIDE = "203.0.113.7"
PUBLIC = "8.8.8.8"


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


class Names:
    """A resolver whose names come to mean something else with each look-up."""

    def __init__(self, **places: Sequence[Sequence[str]]) -> None:
        self._places = {name.replace("_", "."): list(places) for name, places in places.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self._places[host]
        return found.pop(0) if len(found) > 1 else found[0]


def opened(rule: EgressRule = MESH, names: Names | None = None) -> AbstractAsyncContextManager[ProviderHttp]:
    return provider_http(connections=4, egress=rule, lookup=names or Names())


def provider_at(base_url: str, http: ProviderHttp, *, dialect: str = "openai") -> ModelProvider:
    endpoint = Endpoint(base_url=base_url, key=Secret(KEY))
    return AnthropicProvider(http, endpoint) if dialect == "anthropic" else ChatProvider(http, endpoint)


async def answered(provider: ModelProvider) -> bool:
    stream: AsyncGenerator[object] = provider.stream(a_provider_call(DEPLOYMENT, a_prompt(), CLEARANCE, seconds=5.0))
    async with aclosing(stream):
        return any([isinstance(piece, Finished) async for piece in stream])


async def refused(provider: ModelProvider) -> EgressRefused:
    with pytest.raises(EgressRefused) as raised:
        await answered(provider)
    assert raised.value.charge is Charge.NOTHING
    return raised.value


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "host", [OUTSIDE, f"[::ffff:{OUTSIDE}]", "[2001:4860:4860::8888]", "0.0.0.0", "169.254.169.254"]
)
async def test_a_deployment_outside_is_refused_without_a_socket(
    host: str, dialect: str, refused_addresses: list[str]
) -> None:
    async with opened() as http:
        failure = await refused(provider_at(f"http://{host}:9/v1", http, dialect=dialect))
    assert ip_address(failure.metadata["host"]) == ip_address(host.strip("[]"))
    assert refused_addresses == []


async def test_a_deployment_whose_name_stands_outside_is_refused(refused_addresses: list[str]) -> None:
    names = Names(api_example_com=[[OUTSIDE]], half_example_com=[["127.0.0.1", OUTSIDE]])
    async with opened(names=names) as http:
        await refused(provider_at("https://api.example.com/v1", http))
        await refused(provider_at("http://half.example.com/v1", http))
    assert refused_addresses == []


async def test_vectors_are_asked_for_inside_only(refused_addresses: list[str]) -> None:
    async with opened() as http:
        embeddings = OpenAiEmbeddings(http, Endpoint(base_url=f"http://{OUTSIDE}/v1"))
        with pytest.raises(EgressRefused):
            await embeddings.embed(DEPLOYMENT, ("text",), CLEARANCE, seconds=5.0)
    assert refused_addresses == []


async def test_a_name_that_comes_to_mean_a_machine_outside_is_refused(
    server: FakeProvider, refused_addresses: list[str]
) -> None:
    port = server.address.rpartition(":")[2]
    names = Names(models_mesh=[["127.0.0.1"], [OUTSIDE]])
    for inside in (True, False):
        async with opened(names=names) as http:
            provider = provider_at(f"http://models.mesh:{port}/v1", http)
            if inside:
                assert await answered(provider)
            else:
                await refused(provider)
    assert (len(server.meter.calls), refused_addresses) == (1, [])


@pytest.mark.parametrize("location", [f"http://{OUTSIDE}/v1", "https://elsewhere.example.com/", f"//{OUTSIDE}/x"])
async def test_a_redirect_outside_is_refused(location: str, server: FakeProvider, refused_addresses: list[str]) -> None:
    server.next(Behaviour(status=307, headers=(("location", location),)))
    async with opened() as http:
        failure = await refused(provider_at(server.openai_base_url, http))
    assert failure.metadata["host"] in (OUTSIDE, "elsewhere.example.com")
    assert refused_addresses == []


async def test_a_redirect_inside_is_not_followed_either(server: FakeProvider) -> None:
    server.next(Behaviour(status=307, headers=(("location", "/v2/chat/completions"),)))
    async with opened() as http:
        with pytest.raises(ProviderUnavailable):
            await answered(provider_at(server.openai_base_url, http))
    assert len(server.meter.calls) == 1


async def test_no_proxy_is_taken_from_the_environment(
    server: FakeProvider, monkeypatch: pytest.MonkeyPatch, refused_addresses: list[str]
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://{OUTSIDE}:3128")
    async with opened() as http:
        assert await answered(provider_at(server.openai_base_url, http))
        await refused(provider_at(f"http://{OUTSIDE}/v1", http))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, server.address)
    async with opened() as http:
        await refused(provider_at(f"http://{OUTSIDE}/v1", http))
    assert (len(server.meter.calls), refused_addresses) == (1, [])


async def test_an_installation_without_a_rule_asks_whom_it_is_told_to_ask(
    server: FakeProvider, refused_addresses: list[str]
) -> None:
    names = Names(models_example_com=[["127.0.0.1"]])
    async with provider_http(connections=4, lookup=names) as http:
        port = server.address.rpartition(":")[2]
        assert await answered(provider_at(f"http://models.example.com:{port}/v1", http))
    assert refused_addresses == []


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.0.7", "169.254.169.254", "[::1]"])
async def test_a_model_that_a_tenant_names_stands_at_no_private_address(
    host: str, refused_addresses: list[str]
) -> None:
    async with provider_http(connections=4, addresses=AddressRule()) as http:
        await refused(provider_at(f"http://{host}:9/v1", http))
    assert refused_addresses == []


async def test_a_closed_network_lets_tenants_name_what_is_inside_and_nothing_else(
    server: FakeProvider, refused_addresses: list[str]
) -> None:
    async with provider_http(connections=4, egress=MESH, addresses=AddressRule(allow_private=True)) as http:
        assert await answered(provider_at(server.openai_base_url, http))
        await refused(provider_at(f"http://{OUTSIDE}:9/v1", http))
    assert refused_addresses == []


async def test_a_name_is_looked_up_once_for_many_connections(server: FakeProvider) -> None:
    names = Names(models_mesh=[["127.0.0.1"]])
    port = server.address.rpartition(":")[2]
    async with opened(names=names) as http:
        for _ in range(2):
            server.next(Behaviour(status=500, headers=(("connection", "close"),)))
            with pytest.raises(ProviderFailure):
                await answered(provider_at(f"http://models.mesh:{port}/v1", http))
    assert names.asked == ["models.mesh"]


@pytest.mark.parametrize(
    ("rule", "host", "address", "allowed"),
    [
        (MESH, "models.mesh", "127.0.0.1", True),
        (MESH, "models.mesh", "::1", True),
        (MESH, "models.mesh", "10.1.2.3", True),
        (MESH, "models.mesh", "::ffff:10.1.2.3", True),
        (MESH, "models.mesh", "fd12::1%eth0", True),
        (MESH, "models.mesh", "10.2.0.1", False),
        (MESH, "models.mesh", "64:ff9b::a01:203", False),
        (MESH, "models.mesh", "nonsense", False),
        (MESH, "api.example.com", PUBLIC, False),
        (LISTED, "api.example.com", PUBLIC, True),
        (LISTED, "API.example.com.", PUBLIC, True),
        (LISTED, "inside.example.com", "127.0.0.1", True),
        # A listed name that came to stand for somebody else's machine, or a cloud's own address.
        (LISTED, "api.example.com", "10.0.0.1", False),
        (LISTED, "api.example.com", "169.254.169.254", False),
        (LISTED, "example.com", PUBLIC, False),
        (LISTED, "evil-api.example.com", PUBLIC, False),
        (LISTED, "9.9.9.9", "9.9.9.9", False),
        (EgressRule(Egress.MESH, hosts=("api.example.com",)), "api.example.com", PUBLIC, False),
        (EgressRule(Egress.ANY), "api.example.com", PUBLIC, True),
    ],
)
def test_the_rule(rule: EgressRule, host: str, address: str, allowed: bool) -> None:
    if allowed:
        rule.check(host, address)
        return
    with pytest.raises(AddressRefused):
        rule.check(host, address)


def test_an_address_of_a_listed_host_gets_a_socket_once_its_name_led_there() -> None:
    rule = EgressRule(Egress.LISTED, hosts=("api.example.com",))
    with pytest.raises(AddressRefused):
        rule.check(PUBLIC, PUBLIC)
    rule.check("api.example.com", PUBLIC)
    rule.check(PUBLIC, PUBLIC)
