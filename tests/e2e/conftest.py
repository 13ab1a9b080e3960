"""One mesh for the whole test session, and clients of it."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from comitia_sdk.aio import AsyncClient
from comitia_sdk.sync import Client

from tests.support.mesh import RunningMesh, running_mesh


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    """Gives a mesh whose models are the fake provider and the stub."""
    with running_mesh() as running:
        yield running


@pytest.fixture(scope="session")
def other_tenant_key(mesh: RunningMesh) -> str:
    """Gives the admin key of a second tenant."""
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        return client.identity.create_tenant("stranger").admin_api_key


@pytest.fixture
async def client(mesh: RunningMesh) -> AsyncIterator[AsyncClient]:
    """Gives the first tenant's administrator."""
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as opened:
        yield opened


@pytest.fixture
async def stranger(mesh: RunningMesh, other_tenant_key: str) -> AsyncIterator[AsyncClient]:
    """Gives the second tenant's administrator."""
    async with AsyncClient(mesh.url, api_key=other_tenant_key) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """A REST answer."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def reason(self) -> str:
        """Reason of a refusal."""
        for detail in self.body.get("details", []):
            if detail.get("@type", "").endswith("ErrorInfo"):
                return str(detail["reason"])
        return ""

    @property
    def field(self) -> str:
        """Field of a refusal."""
        for detail in self.body.get("details", []):
            for violation in detail.get("field_violations", []):
                return str(violation["field"])
        return ""


class Rest:
    """A REST client with a key of its own."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self.session = session
        self.url = url
        self.key = key

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> RestAnswer:
        """Makes a request; the answer's body is JSON, or text under `text`."""
        sent = {"x-api-key": self.key} if headers is None else headers
        if data is not None:
            sent = {**sent, "content-type": "application/json"}
        async with self.session.request(method, f"{self.url}{path}", json=body, data=data, headers=sent) as answer:
            text = await answer.text()
            try:
                parsed: Any = json.loads(text)
            except ValueError:
                parsed = {"text": text}
            return RestAnswer(answer.status, parsed, dict(answer.headers))


@pytest.fixture
async def rest(mesh: RunningMesh) -> AsyncIterator[Rest]:
    """Gives a REST client of the first tenant's administrator."""
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Rest(session, mesh.url, mesh.admin_key)
