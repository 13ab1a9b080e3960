"""The asynchronous client: one group of methods for each noun.

Answers are the messages of the contract, typed; times are `Timestamp`, money is `int` nano-USD (see `comitia_sdk.usd`).
"""

from typing import Self

from comitia.gateway.v1 import status_service_pb2, status_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.context import find_context
from comitia_sdk.credentials import credentials_of
from comitia_sdk.nouns.access import AsyncAccess
from comitia_sdk.nouns.agents import AsyncAgents
from comitia_sdk.nouns.audit import AsyncAudit
from comitia_sdk.nouns.batches import AsyncBatches
from comitia_sdk.nouns.costs import AsyncCosts
from comitia_sdk.nouns.estimates import AsyncEstimates
from comitia_sdk.nouns.forecasts import AsyncForecasts
from comitia_sdk.nouns.identity import AsyncIdentity
from comitia_sdk.nouns.memories import AsyncMemories
from comitia_sdk.nouns.models import AsyncModels
from comitia_sdk.nouns.policies import AsyncPolicies
from comitia_sdk.nouns.records import AsyncRecords
from comitia_sdk.nouns.runs import AsyncRuns
from comitia_sdk.nouns.sessions import AsyncSessions
from comitia_sdk.nouns.tenants import AsyncTenants
from comitia_sdk.nouns.tools import AsyncTools
from comitia_sdk.nouns.users import AsyncUsers
from comitia_sdk.nouns.workflows import AsyncWorkflows

__all__ = [
    "AsyncAccess",
    "AsyncAgents",
    "AsyncAudit",
    "AsyncBatches",
    "AsyncClient",
    "AsyncCosts",
    "AsyncEstimates",
    "AsyncForecasts",
    "AsyncIdentity",
    "AsyncMemories",
    "AsyncModels",
    "AsyncPolicies",
    "AsyncRecords",
    "AsyncRuns",
    "AsyncSessions",
    "AsyncTenants",
    "AsyncTools",
    "AsyncUsers",
    "AsyncWorkflows",
]


class AsyncClient:
    """A client of one mesh.

        async with AsyncClient() as client:
            session = await client.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"])
            async for event in client.sessions.watch(session.session_id):
                ...

    Args:
        url: of the edge. Default: `COMITIA_URL`, else the mesh that runs on this machine.
        api_key: Default: `COMITIA_API_KEY`, else who signed in with `comitia login`, else the admin key of the mesh on
            this machine.
        access_token: used as it is, instead of a key.
    """

    def __init__(self, url: str = "", *, api_key: str = "", access_token: str = "") -> None:
        context = find_context(url=url, api_key=api_key)
        credentials = credentials_of(
            context.url, api_key=context.api_key, access_token=access_token, login=context.login
        )
        self._connection = Connection(context.url, credentials)
        self._status = status_service_pb2_grpc.StatusServiceStub(self._connection.channel)
        self.url = context.url
        self.agents = AsyncAgents(self._connection)
        self.sessions = AsyncSessions(self._connection)
        self.workflows = AsyncWorkflows(self._connection)
        self.runs = AsyncRuns(self._connection)
        self.estimates = AsyncEstimates(self._connection)
        self.records = AsyncRecords(self._connection)
        self.models = AsyncModels(self._connection)
        self.batches = AsyncBatches(self._connection)
        self.policies = AsyncPolicies(self._connection)
        self.memories = AsyncMemories(self._connection)
        self.tools = AsyncTools(self._connection)
        self.costs = AsyncCosts(self._connection)
        self.forecasts = AsyncForecasts(self._connection)
        self.identity = AsyncIdentity(self._connection)
        self.access = AsyncAccess(self._connection)
        self.users = AsyncUsers(self._connection)
        self.tenants = AsyncTenants(self._connection)
        self.audit = AsyncAudit(self._connection)

    async def status(self) -> status_service_pb2.GetMeshStatusResponse:
        """Asks how the seven services are. Needs no key. Raises: MeshUnavailable."""
        return await self._connection.call_open(
            self._status.GetMeshStatus, status_service_pb2.GetMeshStatusRequest(), timeout=5.0
        )

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self.close()
