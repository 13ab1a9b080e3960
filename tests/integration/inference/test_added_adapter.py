"""An adapter of a third party's package, installed beside the mesh, is asked under law and money like any other."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import SecretStr

from comitia.cost.v1 import price_list_pb2, pricing_service_pb2
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from services.inference.domain.errors import AdapterUnusable
from services.inference.providers.catalogue import ENTRY_POINTS, installed_adapters
from services.meshkit.grpc.channel import call_metadata
from tests.integration.inference.conftest import StartInference, Surroundings, a_request
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PACKAGE: Final = Path(__file__).parents[2] / "support" / "shouting"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the package into a folder of its own, as people install packages."""
    folder, uv = tmp_path_factory.mktemp("installed"), Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--python", sys.executable, "--target", folder, _PACKAGE], check=True, timeout=60)
    return folder


@pytest.fixture
def package(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives a copy of the installed package that Python finds while the test runs."""
    folder = shutil.copytree(installed, tmp_path / "packages")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "comitia_test_shouting", raising=False)
    return folder


def declare(package: Path, written: str) -> None:
    """Has the package declare something else."""
    [entry_points] = package.glob("*.dist-info/entry_points.txt")
    entry_points.write_text(f"[{ENTRY_POINTS}]\n{written}\n", encoding="utf-8")


async def test_an_installed_adapter_answers_under_law_and_money(
    start: StartInference, surroundings: Surroundings, package: Path
) -> None:
    async with start(
        compatible_adapter="shouting",
        compatible_base_url=surroundings.provider.openai_base_url,
        compatible_model="loud-1",
        compatible_api_key=SecretStr(KEY),
    ) as mesh:
        assert await mesh.refused("Generate", a_request(model="loud-1")) == "precondition/PRICE_UNKNOWN"
        assert mesh.provider.meter.calls == []
        pricing: Any = PricingServiceStub(mesh.money.outside)
        rule = pricing_service_pb2.SetUnknownPriceRequest(rule=price_list_pb2.UNKNOWN_PRICE_RULE_FLAG)
        await pricing.SetUnknownPrice(rule, metadata=call_metadata(mesh.principal))
        mesh.provider.next(Behaviour(text="They meet.", prompt_tokens=40, completion_tokens=7))
        generation = await mesh.generate(model="shouting/loud-1")
        assert "".join(part.text.text for part in generation.parts) == "THEY MEET."
        assert (generation.provider, generation.model) == ("shouting", "loud-1")
        [asked] = mesh.provider.meter.calls
        assert asked.body["messages"][0]["content"] == "SHOULD CITIES BAN CARS?"
        assert asked.held
        [charge] = await mesh.charges()
        assert (charge.provider, charge.model) == ("shouting", "loud-1")
        mesh.provider.next(Behaviour(status=500))
        assert await mesh.refused("Generate", a_request(model="loud-1")) == "unavailable/PROVIDER_UNAVAILABLE"


async def test_an_adapter_that_is_not_installed_ends_the_start(start: StartInference) -> None:
    with pytest.raises(AdapterUnusable, match="'shouting' cannot be used: it is not installed; there are: anthropic,"):
        async with start(
            compatible_adapter="shouting", compatible_base_url="http://127.0.0.1:9", compatible_model="loud-1"
        ):
            pass


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("openai = comitia_test_shouting:ADAPTER", "the name is taken"),
        ("stub = comitia_test_shouting:ADAPTER", "the name is taken"),
        ("Shouting! = comitia_test_shouting:ADAPTER", "small letters"),
        ("shouting = comitia_test_shouting:NOTHING", "cannot be loaded"),
        ("shouting = comitia_test_nothing:ADAPTER", "cannot be loaded"),
        ("shouting = comitia_test_shouting:ShoutingProvider", "is no AdapterSpec"),
    ],
)
async def test_an_adapter_that_cannot_be_used_is_named(package: Path, written: str, why: str) -> None:
    declare(package, written)
    with pytest.raises(AdapterUnusable, match=why):
        installed_adapters()
