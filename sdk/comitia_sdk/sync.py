"""The same client for code without an event loop: each method of the asynchronous one, blocking.

The work is done by one loop in a thread of its own.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from comitia.gateway.v1 import status_service_pb2
from comitia_sdk import aio

#: Longest wait for a call to end that the keyboard interrupted, seconds.
_LET_GO_SECONDS: Final = 5.0

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Group = TypeVar("Group")


class _Loop:
    """One event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="comitia-sdk", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """True once it has been stopped."""
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine to its end; a keyboard interrupt cancels it and waits until it has let go.

        Raises: RuntimeError: the client is closed.
        """
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed")
        ended = threading.Event()

        async def tracked() -> Result:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_LET_GO_SECONDS)
            raise

    def close(self) -> None:
        """Ends what still runs and stops the loop. Closing it again changes nothing."""
        if self._loop.is_closed():
            return
        self.run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


class _Blocking(Generic[Group]):
    """A group of methods whose asynchronous twin does the work."""

    def __init__(self, loop: _Loop, group: Group) -> None:
        self.loop = loop
        self.group = group


def _blocking(
    method: Callable[Concatenate[Group, Arguments], Awaitable[Result]],
) -> Callable[Concatenate[_Blocking[Group], Arguments], Result]:
    """Makes the blocking form of an asynchronous method."""

    def call(self: _Blocking[Group], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        async def work() -> Result:
            return await method(self.group, *arguments, **named)

        return self.loop.run(work())

    call.__doc__ = method.__doc__
    call.__name__ = method.__name__
    return call


def _iterating(
    method: Callable[Concatenate[Group, Arguments], AsyncGenerator[Result]],
) -> Callable[Concatenate[_Blocking[Group], Arguments], Iterator[Result]]:
    """Makes the blocking form of an asynchronous generator."""

    def call(self: _Blocking[Group], *arguments: Arguments.args, **named: Arguments.kwargs) -> Iterator[Result]:
        generator = method(self.group, *arguments, **named)

        async def following() -> list[Result]:
            async for item in generator:
                return [item]
            return []

        async def finish() -> None:
            await generator.aclose()

        try:
            while found := self.loop.run(following()):
                yield from found
        finally:
            if not self.loop.closed:
                self.loop.run(finish())

    call.__doc__ = method.__doc__
    call.__name__ = method.__name__
    return call


class Agents(_Blocking[aio.AsyncAgents]):
    """Immutable versions of agents."""

    create = _blocking(aio.AsyncAgents.create)
    apply = _blocking(aio.AsyncAgents.apply)
    get = _blocking(aio.AsyncAgents.get)
    ask = _blocking(aio.AsyncAgents.ask)
    list = _iterating(aio.AsyncAgents.list)


class Sessions(_Blocking[aio.AsyncSessions]):
    """Sessions of several agents."""

    start = _blocking(aio.AsyncSessions.start)
    get = _blocking(aio.AsyncSessions.get)
    list = _iterating(aio.AsyncSessions.list)
    turns = _iterating(aio.AsyncSessions.turns)
    watch = _iterating(aio.AsyncSessions.watch)
    advance = _blocking(aio.AsyncSessions.advance)
    cancel = _blocking(aio.AsyncSessions.cancel)


class Workflows(_Blocking[aio.AsyncWorkflows]):
    """Immutable versions of workflows."""

    create = _blocking(aio.AsyncWorkflows.create)
    validate = _blocking(aio.AsyncWorkflows.validate)
    get = _blocking(aio.AsyncWorkflows.get)
    list = _iterating(aio.AsyncWorkflows.list)


class Runs(_Blocking[aio.AsyncRuns]):
    """Runs of workflows, and sessions as the runs that they are."""

    start = _blocking(aio.AsyncRuns.start)
    get = _blocking(aio.AsyncRuns.get)
    list = _iterating(aio.AsyncRuns.list)
    steps = _iterating(aio.AsyncRuns.steps)
    watch = _iterating(aio.AsyncRuns.watch)
    pause = _blocking(aio.AsyncRuns.pause)
    resume = _blocking(aio.AsyncRuns.resume)
    cancel = _blocking(aio.AsyncRuns.cancel)
    signal = _blocking(aio.AsyncRuns.signal)
    stream_turns = _iterating(aio.AsyncRuns.stream_turns)


class Estimates(_Blocking[aio.AsyncEstimates]):
    """What runs will take, before they run, and how well that was said of those that have ended."""

    workflow = _blocking(aio.AsyncEstimates.workflow)
    session = _blocking(aio.AsyncEstimates.session)
    list = _iterating(aio.AsyncEstimates.list)
    coverage = _blocking(aio.AsyncEstimates.coverage)


class Records(_Blocking[aio.AsyncRecords]):
    """The record of runs: replayed, forked, compared, exported, proven."""

    replay = _blocking(aio.AsyncRecords.replay)
    fork = _blocking(aio.AsyncRecords.fork)
    diff = _blocking(aio.AsyncRecords.diff)
    export = _iterating(aio.AsyncRecords.export)
    save = _blocking(aio.AsyncRecords.save)
    provenance = _blocking(aio.AsyncRecords.provenance)


class Models(_Blocking[aio.AsyncModels]):
    """Language and embedding models, under law and money."""

    list = _blocking(aio.AsyncModels.list)
    generate = _blocking(aio.AsyncModels.generate)
    stream = _iterating(aio.AsyncModels.stream)
    count_tokens = _blocking(aio.AsyncModels.count_tokens)
    embed = _blocking(aio.AsyncModels.embed)
    register = _blocking(aio.AsyncModels.register)
    add_version = _blocking(aio.AsyncModels.add_version)
    check = _blocking(aio.AsyncModels.check)
    get = _blocking(aio.AsyncModels.get)
    health = _blocking(aio.AsyncModels.health)
    retire = _blocking(aio.AsyncModels.retire)
    set_route = _blocking(aio.AsyncModels.set_route)
    route = _blocking(aio.AsyncModels.route)
    routes = _iterating(aio.AsyncModels.routes)
    delete_route = _blocking(aio.AsyncModels.delete_route)
    comparison = _blocking(aio.AsyncModels.comparison)
    report_quality = _blocking(aio.AsyncModels.report_quality)
    start_rollout = _blocking(aio.AsyncModels.start_rollout)
    rollout = _blocking(aio.AsyncModels.rollout)
    rollouts = _iterating(aio.AsyncModels.rollouts)
    promote = _blocking(aio.AsyncModels.promote)
    roll_back = _blocking(aio.AsyncModels.roll_back)


class Batches(_Blocking[aio.AsyncBatches]):
    """Batches of prompts that a provider answers within a day, under law and money."""

    create = _blocking(aio.AsyncBatches.create)
    get = _blocking(aio.AsyncBatches.get)
    list = _iterating(aio.AsyncBatches.list)
    cancel = _blocking(aio.AsyncBatches.cancel)
    results = _iterating(aio.AsyncBatches.results)
    watch = _iterating(aio.AsyncBatches.watch)


class Policies(_Blocking[aio.AsyncPolicies]):
    """Law: bundles of rules, and what broke them."""

    apply = _blocking(aio.AsyncPolicies.apply)
    get = _blocking(aio.AsyncPolicies.get)
    activate = _blocking(aio.AsyncPolicies.activate)
    list = _iterating(aio.AsyncPolicies.list)
    violations = _iterating(aio.AsyncPolicies.violations)
    watch_violations = _iterating(aio.AsyncPolicies.watch_violations)
    evaluate = _blocking(aio.AsyncPolicies.evaluate)


class Memories(_Blocking[aio.AsyncMemories]):
    """What agents remember."""

    remember = _blocking(aio.AsyncMemories.remember)
    recall = _blocking(aio.AsyncMemories.recall)
    get = _blocking(aio.AsyncMemories.get)
    list = _iterating(aio.AsyncMemories.list)
    forget = _blocking(aio.AsyncMemories.forget)


class Tools(_Blocking[aio.AsyncTools]):
    """Tools, under law and money."""

    register = _blocking(aio.AsyncTools.register)
    get = _blocking(aio.AsyncTools.get)
    list = _iterating(aio.AsyncTools.list)
    search = _blocking(aio.AsyncTools.search)
    invoke = _blocking(aio.AsyncTools.invoke)
    stream = _iterating(aio.AsyncTools.stream)


class Costs(_Blocking[aio.AsyncCosts]):
    """Money: what was spent, and how much may be."""

    summary = _blocking(aio.AsyncCosts.summary)
    series = _blocking(aio.AsyncCosts.series)
    export = _iterating(aio.AsyncCosts.export)
    save = _blocking(aio.AsyncCosts.save)
    events = _iterating(aio.AsyncCosts.events)
    budget = _blocking(aio.AsyncCosts.budget)
    budgets = _iterating(aio.AsyncCosts.budgets)
    budget_status = _blocking(aio.AsyncCosts.budget_status)
    budget_tree = _blocking(aio.AsyncCosts.budget_tree)
    budget_alerts = _iterating(aio.AsyncCosts.budget_alerts)
    set_budget = _blocking(aio.AsyncCosts.set_budget)
    remove_budget = _blocking(aio.AsyncCosts.remove_budget)
    set_limit = _blocking(aio.AsyncCosts.set_limit)
    prices = _iterating(aio.AsyncCosts.prices)
    import_prices = _blocking(aio.AsyncCosts.import_prices)
    unknown_price = _blocking(aio.AsyncCosts.unknown_price)
    set_unknown_price = _blocking(aio.AsyncCosts.set_unknown_price)
    reprice = _blocking(aio.AsyncCosts.reprice)


class Forecasts(_Blocking[aio.AsyncForecasts]):
    """Where spend is heading, what was unusual, and how it could be less."""

    velocity = _blocking(aio.AsyncForecasts.velocity)
    forecast = _blocking(aio.AsyncForecasts.forecast)
    alerts = _iterating(aio.AsyncForecasts.alerts)
    recommendations = _iterating(aio.AsyncForecasts.recommendations)
    set_spike_rule = _blocking(aio.AsyncForecasts.set_spike_rule)
    spike_rules = _iterating(aio.AsyncForecasts.spike_rules)


class Identity(_Blocking[aio.AsyncIdentity]):
    """API keys, service accounts and signing keys."""

    whoami = _blocking(aio.AsyncIdentity.whoami)
    token = _blocking(aio.AsyncIdentity.token)
    create_key = _blocking(aio.AsyncIdentity.create_key)
    list_keys = _iterating(aio.AsyncIdentity.list_keys)
    rotate_key = _blocking(aio.AsyncIdentity.rotate_key)
    revoke_key = _blocking(aio.AsyncIdentity.revoke_key)
    create_service_account = _blocking(aio.AsyncIdentity.create_service_account)
    list_service_accounts = _iterating(aio.AsyncIdentity.list_service_accounts)
    disable_service_account = _blocking(aio.AsyncIdentity.disable_service_account)
    rotate_signing_key = _blocking(aio.AsyncIdentity.rotate_signing_key)
    key_set = _blocking(aio.AsyncIdentity.key_set)


class Audit(_Blocking[aio.AsyncAudit]):
    """The audit trail of the tenant."""

    list = _iterating(aio.AsyncAudit.list)
    status = _blocking(aio.AsyncAudit.status)
    acknowledge = _blocking(aio.AsyncAudit.acknowledge)
    export = _iterating(aio.AsyncAudit.export)
    save = _blocking(aio.AsyncAudit.save)
    prove = _blocking(aio.AsyncAudit.prove)
    prove_consistency = _blocking(aio.AsyncAudit.prove_consistency)


class Tenants(_Blocking[aio.AsyncTenants]):
    """Tenants of the installation, and what a tenant may know and change of itself."""

    create = _blocking(aio.AsyncTenants.create)
    list = _iterating(aio.AsyncTenants.list)
    get = _blocking(aio.AsyncTenants.get)
    own = _blocking(aio.AsyncTenants.own)
    set_quotas = _blocking(aio.AsyncTenants.set_quotas)
    set_region = _blocking(aio.AsyncTenants.set_region)
    set_security_policy = _blocking(aio.AsyncTenants.set_security_policy)
    suspend = _blocking(aio.AsyncTenants.suspend)
    resume = _blocking(aio.AsyncTenants.resume)
    plan_deletion = _blocking(aio.AsyncTenants.plan_deletion)
    delete = _blocking(aio.AsyncTenants.delete)
    erasure = _blocking(aio.AsyncTenants.erasure)


class Users(_Blocking[aio.AsyncUsers]):
    """Users of your tenant, and the OpenID Connect issuers that vouch for them."""

    login_options = _blocking(aio.AsyncUsers.login_options)
    exchange = _blocking(aio.AsyncUsers.exchange)
    invite = _blocking(aio.AsyncUsers.invite)
    list = _iterating(aio.AsyncUsers.list)
    set_roles = _blocking(aio.AsyncUsers.set_roles)
    remove = _blocking(aio.AsyncUsers.remove)
    add_issuer = _blocking(aio.AsyncUsers.add_issuer)
    list_issuers = _iterating(aio.AsyncUsers.list_issuers)
    remove_issuer = _blocking(aio.AsyncUsers.remove_issuer)


class Access(_Blocking[aio.AsyncAccess]):
    """Relations: who may view, run, edit or administer what."""

    model = _blocking(aio.AsyncAccess.model)
    set_model = _blocking(aio.AsyncAccess.set_model)
    check = _blocking(aio.AsyncAccess.check)
    grant = _blocking(aio.AsyncAccess.grant)
    revoke = _blocking(aio.AsyncAccess.revoke)
    write = _blocking(aio.AsyncAccess.write)
    relations = _iterating(aio.AsyncAccess.relations)


class Client:
    """A client of one mesh, for code without an event loop. Arguments as `AsyncClient`.

    with Client() as client:
        session = client.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"])
        for event in client.sessions.watch(session.session_id):
            ...
    """

    def __init__(self, url: str = "", *, api_key: str = "", access_token: str = "") -> None:
        self._loop = _Loop()
        try:
            self._client = self._loop.run(_make(url, api_key, access_token))
        except BaseException:
            self._loop.close()
            raise
        self.url = self._client.url
        self.agents = Agents(self._loop, self._client.agents)
        self.sessions = Sessions(self._loop, self._client.sessions)
        self.workflows = Workflows(self._loop, self._client.workflows)
        self.runs = Runs(self._loop, self._client.runs)
        self.estimates = Estimates(self._loop, self._client.estimates)
        self.records = Records(self._loop, self._client.records)
        self.models = Models(self._loop, self._client.models)
        self.batches = Batches(self._loop, self._client.batches)
        self.policies = Policies(self._loop, self._client.policies)
        self.memories = Memories(self._loop, self._client.memories)
        self.tools = Tools(self._loop, self._client.tools)
        self.costs = Costs(self._loop, self._client.costs)
        self.forecasts = Forecasts(self._loop, self._client.forecasts)
        self.identity = Identity(self._loop, self._client.identity)
        self.access = Access(self._loop, self._client.access)
        self.users = Users(self._loop, self._client.users)
        self.tenants = Tenants(self._loop, self._client.tenants)
        self.audit = Audit(self._loop, self._client.audit)

    def status(self) -> status_service_pb2.GetMeshStatusResponse:
        """Asks how the seven services are. Needs no key. Raises: MeshUnavailable."""
        return self._loop.run(self._client.status())

    def close(self) -> None:
        """Closes the connection and ends the thread. Closing it again changes nothing."""
        if not self._loop.closed:
            self._loop.run(self._client.close())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.close()


async def _make(url: str, api_key: str, access_token: str) -> aio.AsyncClient:
    """Makes the client on its loop, where its channel lives."""
    return aio.AsyncClient(url, api_key=api_key, access_token=access_token)
