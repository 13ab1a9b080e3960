"""The asynchronous client: one group of methods for each noun.

Answers are the messages of the contract, typed; times are `Timestamp`, money is `int` nano-USD (see `comitia_sdk.usd`).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Self, cast
from uuid import uuid4

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from comitia.common.v1 import content_pb2
from comitia.cost.v1 import cost_pb2, cost_service_pb2, cost_service_pb2_grpc
from comitia.gateway.v1 import (
    identity_pb2,
    identity_service_pb2,
    identity_service_pb2_grpc,
    status_service_pb2,
    status_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from comitia.inference.v1 import generation_pb2, inference_service_pb2, inference_service_pb2_grpc
from comitia.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from comitia.orchestrator.v1 import (
    agent_pb2,
    agent_service_pb2,
    agent_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
)
from comitia.policy.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from comitia.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.context import find_context
from comitia_sdk.enums import number_of
from comitia_sdk.errors import MeshUnavailable

#: Longest wait for a model's answer, seconds.
_MODEL_TIMEOUT: Final = 300.0
#: A watched stream that broke is taken up again this many times in a row before its error is shown.
_WATCH_TRIES: Final = 5


class AsyncAgents:
    """Immutable versions of agents."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = agent_service_pb2_grpc.AgentServiceStub(connection.channel)

    async def create(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        instructions: str = "",
        description: str = "",
        model: str = "",
        max_output_tokens: int = 0,
        temperature: float | None = None,
        tools: Sequence[str] = (),
        max_tool_calls: int = 0,
        recent_turns: int = 0,
        semantic_matches: int = 0,
        memory_required: bool = False,
        style: Mapping[str, float] | None = None,
    ) -> agent_pb2.Agent:
        """Makes a version of an agent; the same definition again changes nothing. Raises: AlreadyExists."""
        agent = agent_pb2.Agent(
            name=name,
            version=version,
            instructions=instructions,
            description=description,
            model=model,
            max_output_tokens=max_output_tokens,
            temperature=temperature,
            tools=tools,
            max_tool_calls=max_tool_calls,
            memory=agent_pb2.MemoryPolicy(
                recent_turns=recent_turns, semantic_matches=semantic_matches, required=memory_required
            ),
            style=style or {},
        )
        return await self.apply(agent)

    async def apply(self, agent: agent_pb2.Agent) -> agent_pb2.Agent:
        """Makes a version from a whole definition. Raises: AlreadyExists."""
        request = agent_service_pb2.CreateAgentRequest(agent=agent)
        return (await self._connection.call(self._stub.CreateAgent, request)).agent

    async def get(self, name: str, version: str = "") -> agent_pb2.Agent:
        """Fetches a version, the highest when none is named. Raises: NotFound."""
        request = agent_service_pb2.GetAgentRequest(name=name, version=version)
        return (await self._connection.call(self._stub.GetAgent, request)).agent

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[agent_pb2.Agent]:
        """Gives all versions, by name, then version."""
        request = agent_service_pb2.ListAgentsRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListAgents, request)
            for agent in page.agents:
                yield agent
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


class AsyncSessions:
    """Sessions of several agents."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = session_service_pb2_grpc.SessionServiceStub(connection.channel)

    async def start(
        self,
        topic: str,
        *,
        agents: Sequence[str],
        mode: str = "debate",
        strategy: str = "round_robin",
        max_rounds: int = 0,
        convergence: session_pb2.ConvergencePolicy | bool = False,
        manual_advance: bool = False,
        max_cost_nano_usd: int = 0,
        metadata: Mapping[str, str] | None = None,
        model: str = "",
        request_id: str = "",
    ) -> session_pb2.Session:
        """Starts a session and returns at once; follow it with `watch`.

        Args:
            agents: `name` or `name@version`, in order of speech.
            mode: debate, brainstorm, consensus or dialogue.
            strategy: round_robin or parallel.
            convergence: True for the defaults.
            request_id: UUID that makes a repeat harmless; a new one when empty.
        Raises: InvalidRequest, NotFound, LimitReached.
        """
        policy = session_pb2.ConvergencePolicy(enabled=convergence) if isinstance(convergence, bool) else convergence
        request = session_service_pb2.StartSessionRequest(
            topic=topic,
            mode=cast(session_pb2.SessionMode.ValueType, number_of(session_pb2.SessionMode, mode, field="mode")),
            strategy=cast(
                session_pb2.SessionStrategy.ValueType,
                number_of(session_pb2.SessionStrategy, strategy, field="strategy"),
            ),
            agents=agents,
            max_rounds=max_rounds,
            convergence=policy,
            manual_advance=manual_advance,
            max_cost_nano_usd=max_cost_nano_usd,
            metadata=metadata or {},
            model=model,
            request_id=request_id or str(uuid4()),
        )
        return (await self._connection.call(self._stub.StartSession, request)).session

    async def get(self, session_id: str) -> session_pb2.Session:
        """Fetches a session as it stands. Raises: NotFound."""
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.GetSession, request)).session

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[session_pb2.Session]:
        """Gives all sessions, newest first."""
        request = session_service_pb2.ListSessionsRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListSessions, request)
            for session in page.sessions:
                yield session
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def turns(self, session_id: str, *, page_size: int = 0) -> AsyncGenerator[session_pb2.Turn]:
        """Gives the recorded turns in order. Raises: NotFound."""
        request = session_service_pb2.ListTurnsRequest(session_id=session_id, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListTurns, request)
            for turn in page.turns:
                yield turn
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(
        self, session_id: str, *, after_sequence: int = 0
    ) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
        """Gives events as they happen until the session has ended; a broken stream is taken up where it broke.

        Raises: NotFound; MeshUnavailable after several breaks without any event between them.
        """
        tries = 0
        while True:
            request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after_sequence)
            try:
                async for event in self._connection.stream(self._stub.WatchSession, request):
                    tries = 0
                    if event.WhichOneof("event") != "text_delta":
                        after_sequence = event.sequence
                    yield event
                    if event.WhichOneof("event") == "session_ended":
                        return
            except MeshUnavailable:
                tries += 1
                if tries >= _WATCH_TRIES:
                    raise
                await asyncio.sleep(0.2 * 2**tries)

    async def advance(self, session_id: str) -> session_pb2.Session:
        """Begins the next round of a session that waits. Raises: NotFound, FailedPrecondition."""
        request = session_service_pb2.AdvanceSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.AdvanceSession, request)).session

    async def cancel(self, session_id: str) -> session_pb2.Session:
        """Stops a session. Raises: NotFound, FailedPrecondition."""
        request = session_service_pb2.CancelSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.CancelSession, request)).session


class AsyncModels:
    """Language and embedding models, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models = inference_service_pb2_grpc.ModelServiceStub(connection.channel)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(connection.channel)

    async def list(self) -> Sequence[generation_pb2.ModelDeployment]:
        """Gives the models in the order in which the default chain asks them."""
        request = inference_service_pb2.ListModelsRequest()
        return (await self._connection.call(self._models.ListModels, request)).models

    async def generate(self, prompt: str, *, model: str = "", max_output_tokens: int = 0) -> generation_pb2.Generation:
        """Asks a model and waits for the whole answer. Raises: PermissionDenied, LimitReached, FailedPrecondition."""
        request = inference_service_pb2.GenerateRequest(
            model=model, messages=[_user_message(prompt)], max_output_tokens=max_output_tokens
        )
        answer = await self._connection.call(self._inference.Generate, request, timeout=_MODEL_TIMEOUT)
        return answer.generation

    async def stream(
        self, prompt: str, *, model: str = "", max_output_tokens: int = 0
    ) -> AsyncGenerator[inference_service_pb2.StreamGenerateResponse]:
        """Asks a model and gives its answer as it comes; the last message is the whole answer."""
        request = inference_service_pb2.StreamGenerateRequest(
            model=model, messages=[_user_message(prompt)], max_output_tokens=max_output_tokens
        )
        async for event in self._connection.stream(self._inference.StreamGenerate, request, timeout=_MODEL_TIMEOUT):
            yield event

    async def embed(self, texts: Sequence[str], *, model: str = "") -> Sequence[Sequence[float]]:
        """Embeds texts as unit vectors."""
        request = inference_service_pb2.EmbedRequest(texts=texts, model=model)
        answer = await self._connection.call(self._inference.Embed, request, timeout=_MODEL_TIMEOUT)
        return [list(embedding.values) for embedding in answer.embeddings]


class AsyncPolicies:
    """Law: bundles of rules, and what broke them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bundles = policy_service_pb2_grpc.BundleServiceStub(connection.channel)
        self._violations = policy_service_pb2_grpc.ViolationServiceStub(connection.channel)

    async def apply(
        self, source: str, *, name: str = "", version: str = "", keep_inactive: bool = False
    ) -> policy_pb2.Bundle:
        """Stores rules (YAML or JSON) as a bundle and makes it law. Raises: InvalidRequest, AlreadyExists."""
        request = policy_service_pb2.CreateBundleRequest(
            name=name, version=version, source=source, keep_inactive=keep_inactive
        )
        return (await self._connection.call(self._bundles.CreateBundle, request)).bundle

    async def get(self, bundle: str) -> policy_pb2.Bundle:
        """Fetches a bundle by `name` or `name@version`. Raises: NotFound."""
        request = policy_service_pb2.GetBundleRequest(bundle=bundle)
        return (await self._connection.call(self._bundles.GetBundle, request)).bundle

    async def activate(self, bundle: str) -> policy_pb2.Bundle:
        """Makes a stored bundle law. Raises: NotFound."""
        request = policy_service_pb2.ActivateBundleRequest(bundle=bundle)
        return (await self._connection.call(self._bundles.ActivateBundle, request)).bundle

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[policy_pb2.Bundle]:
        """Gives all bundles."""
        request = policy_service_pb2.ListBundlesRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._bundles.ListBundles, request)
            for bundle in page.bundles:
                yield bundle
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def violations(
        self, *, run_id: str = "", rule: str = "", page_size: int = 0
    ) -> AsyncGenerator[policy_pb2.Violation]:
        """Gives violations, newest first."""
        request = policy_service_pb2.ListViolationsRequest(run_id=run_id, rule=rule, page_size=page_size)
        while True:
            page = await self._connection.call(self._violations.ListViolations, request)
            for violation in page.violations:
                yield violation
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_violations(
        self, *, after_sequence: int = 0, run_id: str = ""
    ) -> AsyncGenerator[policy_pb2.Violation]:
        """Gives violations as they are recorded, without end."""
        request = policy_service_pb2.WatchViolationsRequest(after_sequence=after_sequence, run_id=run_id)
        async for event in self._connection.stream(self._violations.WatchViolations, request):
            yield event.violation


class AsyncMemories:
    """What agents remember."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = memory_service_pb2_grpc.MemoryServiceStub(connection.channel)

    async def remember(
        self, text: str, *, session_id: str = "", agent_name: str = "", tags: Sequence[str] = ()
    ) -> memory_service_pb2.Memory:
        """Stores a text. Raises: InvalidRequest, PermissionDenied."""
        part = content_pb2.Part(text=content_pb2.TextPart(text=text))
        request = memory_service_pb2.RememberRequest(
            session_id=session_id, agent_name=agent_name, parts=[part], tags=tags
        )
        return (await self._connection.call(self._stub.Remember, request)).memory

    async def recall(
        self,
        query: str,
        *,
        session_id: str = "",
        agent_name: str = "",
        recent_turns: int = 0,
        semantic_matches: int = 5,
    ) -> memory_service_pb2.RecallResponse:
        """Finds the session's latest turns and what is most similar to a query."""
        request = memory_service_pb2.RecallRequest(
            query=query,
            session_id=session_id,
            agent_name=agent_name,
            recent_turns=recent_turns,
            semantic_matches=semantic_matches,
        )
        return await self._connection.call(self._stub.Recall, request)

    async def get(self, memory_id: str) -> memory_service_pb2.Memory:
        """Fetches a memory. Raises: NotFound."""
        request = memory_service_pb2.GetMemoryRequest(memory_id=memory_id)
        return (await self._connection.call(self._stub.GetMemory, request)).memory

    async def list(
        self, *, session_id: str = "", agent_name: str = "", page_size: int = 0
    ) -> AsyncGenerator[memory_service_pb2.Memory]:
        """Gives memories, newest first."""
        request = memory_service_pb2.ListMemoriesRequest(
            session_id=session_id, agent_name=agent_name, page_size=page_size
        )
        while True:
            page = await self._connection.call(self._stub.ListMemories, request)
            for memory in page.memories:
                yield memory
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def forget(self, memory_id: str) -> None:
        """Forgets a memory. Raises: NotFound."""
        await self._connection.call(
            self._stub.ForgetMemory, memory_service_pb2.ForgetMemoryRequest(memory_id=memory_id)
        )


class AsyncTools:
    """Tools, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = tool_service_pb2_grpc.ToolServiceStub(connection.channel)

    async def register(self, tool: tool_service_pb2.Tool) -> tool_service_pb2.Tool:
        """Registers a version of a tool. Raises: InvalidRequest, AlreadyExists."""
        request = tool_service_pb2.RegisterToolRequest(tool=tool)
        return (await self._connection.call(self._stub.RegisterTool, request)).tool

    async def get(self, name: str) -> tool_service_pb2.Tool:
        """Fetches a tool by `name` or `name@version`. Raises: NotFound."""
        request = tool_service_pb2.GetToolRequest(name=name)
        return (await self._connection.call(self._stub.GetTool, request)).tool

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[tool_service_pb2.Tool]:
        """Gives all tools, by name."""
        request = tool_service_pb2.ListToolsRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListTools, request)
            for tool in page.tools:
                yield tool
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def search(
        self, query: str, *, limit: int = 0, max_tokens: int = 0
    ) -> Sequence[tool_service_pb2.SearchToolsResponse.Match]:
        """Finds the tools that fit a task best."""
        request = tool_service_pb2.SearchToolsRequest(query=query, limit=limit, max_tokens=max_tokens)
        return (await self._connection.call(self._stub.SearchTools, request)).matches

    async def invoke(self, name: str, arguments: Mapping[str, Any]) -> tool_service_pb2.Invocation:
        """Calls a tool. A tool that fails is an answer with `failed` set. Raises: NotFound, InvalidRequest."""
        values = json_format.ParseDict(dict(arguments), Struct())
        request = tool_service_pb2.InvokeToolRequest(name=name, arguments=values)
        return (await self._connection.call(self._stub.InvokeTool, request, timeout=120.0)).invocation


class AsyncCosts:
    """Money: what was spent, and how much may be."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ledger = cost_service_pb2_grpc.LedgerServiceStub(connection.channel)
        self._budgets = cost_service_pb2_grpc.BudgetServiceStub(connection.channel)
        self._prices = cost_service_pb2_grpc.PricingServiceStub(connection.channel)

    async def summary(self, *, by: str = "model", run_id: str = "") -> cost_service_pb2.GetCostSummaryResponse:
        """Adds up charges by model, provider, agent, run, project or kind."""
        dimension = number_of(cost_service_pb2.CostDimension, by, field="by")
        request = cost_service_pb2.GetCostSummaryRequest(
            by=cast(cost_service_pb2.CostDimension.ValueType, dimension), run_id=run_id
        )
        return await self._connection.call(self._ledger.GetCostSummary, request)

    async def events(self, *, run_id: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.CostEvent]:
        """Gives charges, newest first."""
        request = cost_service_pb2.ListCostEventsRequest(run_id=run_id, page_size=page_size)
        while True:
            page = await self._connection.call(self._ledger.ListCostEvents, request)
            for event in page.cost_events:
                yield event
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def budget(self, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Fetches a budget; `tenant` names the tenant's own. Raises: NotFound."""
        request = cost_service_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await self._connection.call(self._budgets.GetBudget, request)).budget

    async def set_limit(self, limit_nano_usd: int, *, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Changes a budget's limit. Raises: NotFound, InvalidRequest."""
        request = cost_service_pb2.SetBudgetLimitRequest(budget_id=budget_id, limit_nano_usd=limit_nano_usd)
        return (await self._connection.call(self._budgets.SetBudgetLimit, request)).budget

    async def prices(self, *, provider: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.Price]:
        """Gives the prices that hold now."""
        request = cost_service_pb2.ListPricesRequest(provider=provider, page_size=page_size)
        while True:
            page = await self._connection.call(self._prices.ListPrices, request)
            for price in page.prices:
                yield price
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


class AsyncIdentity:
    """API keys and tenants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)
        self._tenants = tenant_service_pb2_grpc.TenantServiceStub(connection.channel)

    async def whoami(self) -> identity_service_pb2.WhoAmIResponse:
        """Says who the caller is."""
        return await self._connection.call(self._identity.WhoAmI, identity_service_pb2.WhoAmIRequest())

    async def token(self) -> str:
        """Gives an access token for other clients, such as grpcurl."""
        return await self._connection.access_token()

    async def create_key(
        self, display_name: str, *, roles: Sequence[str] = ("tenant_user",), project: str = ""
    ) -> identity_service_pb2.CreateApiKeyResponse:
        """Makes an API key; its secret is in this answer and nowhere else. Raises: PermissionDenied."""
        numbers = [number_of(identity_pb2.Role, role, field="roles") for role in roles]
        request = identity_service_pb2.CreateApiKeyRequest(
            display_name=display_name,
            roles=[cast(identity_pb2.Role.ValueType, number) for number in numbers],
            project=project,
            request_id=str(uuid4()),
        )
        return await self._connection.call(self._identity.CreateApiKey, request)

    async def list_keys(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.ApiKey]:
        """Gives the tenant's API keys, newest first."""
        request = identity_service_pb2.ListApiKeysRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._identity.ListApiKeys, request)
            for key in page.api_keys:
                yield key
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def revoke_key(self, api_key_id: str) -> identity_pb2.ApiKey:
        """Revokes an API key. Raises: NotFound."""
        request = identity_service_pb2.RevokeApiKeyRequest(api_key_id=api_key_id)
        return (await self._connection.call(self._identity.RevokeApiKey, request)).api_key

    async def create_tenant(self, name: str) -> tenant_service_pb2.CreateTenantResponse:
        """Makes a tenant and its first admin key, which is shown once. Raises: AlreadyExists, PermissionDenied."""
        request = tenant_service_pb2.CreateTenantRequest(name=name, request_id=str(uuid4()))
        return await self._connection.call(self._tenants.CreateTenant, request)

    async def list_tenants(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.Tenant]:
        """Gives the tenants of the installation, by name."""
        request = tenant_service_pb2.ListTenantsRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._tenants.ListTenants, request)
            for tenant in page.tenants:
                yield tenant
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


class AsyncClient:
    """A client of one mesh.

        async with AsyncClient() as client:
            session = await client.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"])
            async for event in client.sessions.watch(session.session_id):
                ...

    Args:
        url: of the edge. Default: `COMITIA_URL`, else the mesh that runs on this machine.
        api_key: Default: `COMITIA_API_KEY`, else the admin key of the mesh on this machine.
        access_token: used as it is, instead of a key.
    """

    def __init__(self, url: str = "", *, api_key: str = "", access_token: str = "") -> None:
        context = find_context(url=url, api_key=api_key)
        self._connection = Connection(
            context.url, api_key="" if access_token else context.api_key, access_token=access_token
        )
        self._status = status_service_pb2_grpc.StatusServiceStub(self._connection.channel)
        self.url = context.url
        self.agents = AsyncAgents(self._connection)
        self.sessions = AsyncSessions(self._connection)
        self.models = AsyncModels(self._connection)
        self.policies = AsyncPolicies(self._connection)
        self.memories = AsyncMemories(self._connection)
        self.tools = AsyncTools(self._connection)
        self.costs = AsyncCosts(self._connection)
        self.identity = AsyncIdentity(self._connection)

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


def _user_message(text: str) -> content_pb2.Message:
    part = content_pb2.Part(text=content_pb2.TextPart(text=text))
    return content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER, parts=[part])
