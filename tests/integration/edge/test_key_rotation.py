"""Access tokens of signing keys that come and go while Envoy runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from comitia.gateway.v1.identity_service_pb2 import WhoAmIRequest
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.launcher.edge_tokens import TokenCheck
from services.launcher.layout import write_private
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.identity import TokenSigner
from services.meshkit.grpc.signed_token import SigningKey, key_set
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.edge.conftest import reason_of
from tests.support.edge import RunningEdge, edge_settings, running_edge

#: What the edge says about a token that it believes, since no service is behind it.
BELIEVED = "SERVICE_UNAVAILABLE"
REFUSED = "TOKEN_INVALID"


@dataclass
class Rotation:
    """An edge whose keys the test changes."""

    edge: RunningEdge
    keys: MeshKeys
    http: aiohttp.ClientSession
    new_key: SigningKey

    @property
    def old_token(self) -> str:
        return self.keys.principal().token

    @property
    def new_token(self) -> str:
        signer = TokenSigner(self.new_key, clock=self.keys.clock)
        return signer.sign(self.keys.principal(), life=timedelta(minutes=5), token_id="test")

    def publish(self, *keys: SigningKey) -> None:
        write_private(self.keys.jwks_path, key_set(keys))

    async def said(self, token: str) -> str:
        headers = {"authorization": f"Bearer {token}"}
        async with self.http.get(self.edge.url + "/v1/whoami", headers=headers) as answer:
            return reason_of(await answer.json())

    async def until(self, token: str, said: str) -> None:
        async with asyncio.timeout(10):
            while await self.said(token) != said:  # noqa: ASYNC110  # another process cannot set an event
                await asyncio.sleep(0.05)


@asynccontextmanager
async def rotation(folder: Path) -> AsyncIterator[Rotation]:
    keys = MeshKeys.make(folder, clock=SystemClock())
    settings = edge_settings({}, jwks=keys.jwks_path, log=folder / "access.log")
    following = asyncio.create_task(TokenCheck(keys.jwks_path, settings.token_check).follow())
    try:
        async with running_edge(settings, folder) as edge, aiohttp.ClientSession() as http:
            yield Rotation(edge, keys, http, SigningKey.generate("access-2"))
    finally:
        following.cancel()


async def test_a_key_added_later_is_believed_within_seconds_and_one_taken_away_is_not(tmp_path: Path) -> None:
    async with rotation(tmp_path) as now:
        assert (await now.said(now.old_token), await now.said(now.new_token)) == (BELIEVED, REFUSED)

        now.publish(now.keys.access_key, now.new_key)
        await now.until(now.new_token, BELIEVED)
        assert await now.said(now.old_token) == BELIEVED

        now.publish(now.new_key)
        await now.until(now.old_token, REFUSED)
        assert await now.said(now.new_token) == BELIEVED


async def test_no_call_fails_while_keys_change(tmp_path: Path) -> None:
    async with rotation(tmp_path) as now, grpc.aio.insecure_channel(now.edge.address) as channel:
        stub, reasons = IdentityServiceStub(channel), set[str]()

        async def call() -> None:
            while True:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await stub.WhoAmI(WhoAmIRequest(), metadata=(("authorization", f"Bearer {now.old_token}"),))
                reasons.add(remote_error(raised.value).reason)

        calling = asyncio.create_task(call())
        for keys in ((now.keys.access_key, now.new_key), (now.new_key, now.keys.access_key)):
            now.publish(*keys)
            await now.until(now.new_token, BELIEVED)
            await asyncio.sleep(1.2)  # until the second change has been taken too
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    assert reasons <= {BELIEVED, "RATE_LIMITED"}
    assert BELIEVED in reasons


@pytest.mark.parametrize("broken", [b"", b"[]", b'{"keys": [{"kty": "none of this"}]}'])
async def test_a_broken_key_set_leaves_the_last_good_one_in_use(tmp_path: Path, broken: bytes) -> None:
    async with rotation(tmp_path) as now:
        write_private(now.keys.jwks_path, broken)
        await asyncio.sleep(1.5)  # it is looked at once a second
        assert await now.said(now.old_token) == BELIEVED
        now.publish(now.keys.access_key, now.new_key)
        await now.until(now.new_token, BELIEVED)
