"""One mesh for all tests of this folder, and clients of it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from comitia.orchestrator.v1 import agent_pb2, session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.sync import Client
from tests.e2e.shell import Shell, thinking
from tests.support.mesh import ProviderProcess, RunningMesh, running_mesh

Found = TypeVar("Found")
ENDED = (
    session_pb2.SESSION_STATE_SUCCEEDED,
    session_pb2.SESSION_STATE_FAILED,
    session_pb2.SESSION_STATE_CANCELLED,
)
_HERE = Path(__file__).parent
_numbers = count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests of this folder. They share one mesh, so one worker runs them: see `tests/conftest.py`."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.e2e)
            if config.pluginmanager.hasplugin("xdist"):
                item.add_marker(pytest.mark.xdist_group("mesh"))


@pytest.fixture(scope="package")
def mesh() -> Iterator[RunningMesh]:
    """Gives a mesh whose models are the fake provider and the stub; it erases and signs without long pauses."""
    settings = {
        # Where the fake provider stands, for tenants whose content must stay somewhere.
        "COMITIA_INFERENCE_OPENAI_REGION": "eu-west",
        # The fake provider, which tenants register as theirs, is on this machine.
        "COMITIA_INFERENCE_PRIVATE_ENDPOINTS": "true",
        # What a prompt with a PDF is bounded by.
        "COMITIA_INFERENCE_OPENAI_CONTEXT_TOKENS": "128000",
        # A tenant fills its half of the room with two pictures.
        "COMITIA_INFERENCE_DOORS_BODY_BYTES": str(40 * 2**20),
        # One tenant is asked for many, by whoever tries all texts.
        "COMITIA_GATEWAY_MAX_OIDC_ISSUERS": "1000",
        "COMITIA_GATEWAY_ERASURE_SETTLE_SECONDS": "4",
        "COMITIA_GATEWAY_AUDIT_HEAD_SECONDS": "5",
        # All who verify tokens read one file here, each second.
        "COMITIA_GATEWAY_SIGNING_KEY_LEAD_SECONDS": "6",
        # Somebody waits for what is learnt from runs.
        "COMITIA_ORCHESTRATOR_ESTIMATE_SECONDS": "1",
        # Each test has a tenant of its own, and its provider beside it.
        "COMITIA_GATEWAY_OIDC_REACH_LOCAL": "everybody",
    }
    with running_mesh(environment=settings) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Two runs, the first of which was told what to expect of it, and a session, all at their end."""

    shell: Shell
    warned: str
    silent: str
    session: str


@pytest.fixture(scope="package")
def begun(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Begins long before it is looked at, since runs are learnt from a minute after they began."""
    shell = thinking(mesh, "learner", tmp_path_factory.mktemp("begun"))
    warned = shell.json("run", "start", "think", "--preflight", "warn")["run_id"]
    shell.run("run", "watch", warned)
    silent = shell.json("run", "start", "think")["run_id"]
    shell.run("run", "watch", silent)
    session = shell.json("session", "start", "Why rivers?", "-a", "Ada", "--rounds", "1", "--preflight", "warn")
    shell.run("session", "watch", session["session_id"])
    return Begun(shell=shell, warned=warned, silent=silent, session=session["session_id"])


@pytest.fixture(scope="package")
def other_tenant_key(mesh: RunningMesh) -> str:
    """Gives the admin key of a second tenant."""
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        return client.tenants.create("stranger").admin_api_key


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
        """Field of a refusal: of a request that is wrong in itself, or of one that names what is not there."""
        for detail in self.body.get("details", []):
            for violation in detail.get("field_violations", []):
                return str(violation["field"])
        for detail in self.body.get("details", []):
            if named := detail.get("metadata", {}).get("field"):
                return str(named)
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
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent = {**sent, "content-type": "application/json"}
        said = None if data is None else io.BytesIO(data)
        async with self.session.request(method, f"{self.url}{path}", data=said, headers=sent) as answer:
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


async def until(ask: Callable[[], Awaitable[Found | None]], *, seconds: float = 20) -> Found:
    """Asks until there is a true answer, and gives it."""
    async with asyncio.timeout(seconds):
        while not (found := await ask()):  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.02)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant of its own: its money, law and memories are those of one test."""

    name: str
    #: In topics and answers it tells the calls of this tenant from all others at the provider.
    mark: str
    key: str
    client: AsyncClient
    rest: Rest
    provider: ProviderProcess

    async def cast(self, *names: str, **definition: Any) -> list[str]:
        """Makes agents of these names and one definition."""
        return [(await self.client.agents.create(name, **definition)).name for name in names]

    async def start(self, *agents: str, about: str = "", **wishes: Any) -> session_pb2.Session:
        """Starts a session whose topic holds the mark."""
        return await self.client.sessions.start(f"{about or 'Rivers'} {self.mark}", agents=agents, **wishes)

    async def ended(self, session_id: str, *, seconds: float = 20) -> session_pb2.Session:
        """Waits until a session has ended."""
        async with asyncio.timeout(seconds):
            async for event in self.client.sessions.watch(session_id):
                if event.WhichOneof("event") == "session_ended":
                    return event.session_ended
        raise AssertionError(f"the watch of {session_id} ended before the session did")

    async def until_state(
        self, session_id: str, state: session_pb2.SessionState.ValueType, *, seconds: float = 20
    ) -> session_pb2.Session:
        """Waits until a session is in a state."""

        async def there() -> session_pb2.Session | None:
            session = await self.client.sessions.get(session_id)
            assert session.state not in ENDED or session.state == state, f"it ended instead: {session}"
            return session if session.state == state else None

        return await until(there, seconds=seconds)

    async def turns(self, session_id: str) -> list[session_pb2.Turn]:
        """Gives the recorded turns."""
        return [turn async for turn in self.client.sessions.turns(session_id)]

    async def agents(self) -> list[agent_pb2.Agent]:
        """Gives all agents."""
        return [agent async for agent in self.client.agents.list()]

    def says(self, *texts: str, match: tuple[str, ...] = (), **behaviour: Any) -> None:
        """Queues answers of the provider to prompts of this tenant, or to those that hold more."""
        for text in texts:
            self.provider.behave(text=text, match=[self.mark, *match], **behaviour)


MakeTenant = Callable[[], Awaitable[Tenant]]


@pytest.fixture
async def make_tenant(mesh: RunningMesh, client: AsyncClient) -> AsyncIterator[MakeTenant]:
    """Gives a maker of tenants of their own."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)))

        async def make() -> Tenant:
            number = next(_numbers)
            name = f"tenant-{number}"
            made = await client.tenants.create(name)
            key = made.admin_api_key
            return Tenant(
                name=name,
                mark=f"mark{number:04d}x",
                key=key,
                client=await stack.enter_async_context(AsyncClient(mesh.url, api_key=key)),
                rest=Rest(session, mesh.url, key),
                provider=mesh.provider,
            )

        yield make


@pytest.fixture
async def tenant(make_tenant: MakeTenant) -> Tenant:
    """Gives a tenant of its own."""
    return await make_tenant()
