"""A server that holds a secret of ours to another place: the secret does not go there."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from aiohttp import web

from services.gateway.clients.openfga import openfga_store
from services.gateway.relations.parse import parse_model
from services.gateway.relations.shipped import SHIPPED_MODEL
from services.gateway.usecases.access_ports import TupleFilter
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.crypto.vault_transit import vault_transit

TENANT = TenantId(UUID(int=1))


class Mover:
    """Answers every request with a redirect to a place of its own, and keeps what was sent there."""

    def __init__(self) -> None:
        self.url = ""
        self.led_astray: list[web.BaseRequest] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/elsewhere":
            self.led_astray.append(request)
            return web.json_response({})
        return web.Response(status=307, headers={"location": f"{self.url}/elsewhere"})


@pytest.fixture
async def mover() -> AsyncIterator[Mover]:
    moved, app = Mover(), web.Application()
    app.router.add_route("*", "/{what:.*}", moved.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    moved.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield moved
    await runner.cleanup()


async def test_vaults_token_and_a_data_key_are_not_sent_on(mover: Mover) -> None:
    async with vault_transit(url=mover.url, key="comitia", mount="transit", token=lambda: Secret("s.token")) as vault:
        with pytest.raises(KeyServiceAway) as wrapping:
            await vault.wrap(b"k" * 32, context=b"tenant")
        with pytest.raises(KeyServiceAway) as opening:
            await vault.unwrap(b"vault:v1:abc", context=b"tenant")
    assert [refused.value.metadata["status"] for refused in (wrapping, opening)] == ["307", "307"]
    assert mover.led_astray == []


async def test_the_key_of_openfga_and_relations_are_not_sent_on(mover: Mover) -> None:
    async with openfga_store(mover.url, store_id="0" * 26, token="preshared") as relations:
        with pytest.raises(Unavailable):
            await relations.accept(parse_model(SHIPPED_MODEL))
        with pytest.raises(Unavailable):
            await relations.page(TENANT, TupleFilter(), after=None, most=1)
    assert mover.led_astray == []
