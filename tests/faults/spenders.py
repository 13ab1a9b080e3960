"""Callers and runs of one tenant that want more than its budgets allow, while parts of the mesh die."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from random import Random
from typing import Final
from uuid import UUID, uuid4

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import LimitReached, MeshUnavailable, RateLimited, TimedOut
from services.meshkit.core.ids import to_uuid
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.faults.books import Books
from tests.faults.workload import patiently
from tests.support.mesh import ProviderProcess, RunningMesh

#: nano-USD. A call is held at some 400,000 and charged some 220,000 of them: a run can pay one turn, an agent a few.
TENANT_LIMIT: Final = 12_000_000
PROJECT_LIMITS: Final = {"alpha": 2_500_000, "beta": 5_000_000}
AGENT_LIMITS: Final = {"Ada": 500_000, "Boole": 4_000_000}
#: Has no budget, so only its run stops it.
_FREE_AGENT: Final = "Clio"
RUN_LIMIT: Final = 600_000
KINDS: Final = ("run", "project", "agent", "tenant")
#: Has no budget of its own, so calls for it spend all that the tenant has left. Callers begin with it once the first
#: runs, which are for it, have met the limits of runs and agents.
_ELSEWHERE: Final = "elsewhere"
_SESSIONS_BEFORE: Final = 4
_ANSWER: Final = "Rivers meet. They argue about the sea!"
_ANSWER_TOKENS: Final = 300
_MOST_TOKENS: Final = 500
_MOST_WORDS: Final = 100
#: Long enough that calls are on their way whenever something dies.
_ANSWER_SECONDS: Final = 0.4
_PAUSE_SECONDS: Final = 0.1
_SESSION_SECONDS: Final = 200.0


class Spenders:
    """A tenant with a budget of its own, of projects, of agents and of each run, all of them small.

    Each prompt says from which budgets it spends, so that the provider's meter can be split without the ledger.
    """

    def __init__(self, client: AsyncClient, mark: str, dice: Random) -> None:
        self.mark = mark
        self._client = client
        self._dice = dice
        self._numbers = count()
        self._by_project: dict[str, AsyncClient] = {}
        #: Budgets by the words that stand for them in prompts.
        self.budgets: dict[str, UUID] = {}
        self.answered = 0
        #: Refused calls by the kind of budget that refused.
        self.refused: Counter[str] = Counter()
        self._all_refused = asyncio.Event()
        #: Calls of which nobody knows whether they were made.
        self.unknown = 0
        self.sessions: list[session_pb2.Session] = []

    @property
    def tenant(self) -> UUID:
        """The tenant, whose own budget has the same id."""
        return self.budgets[self.mark]

    async def prepare(self) -> None:
        """Makes budgets and agents."""
        costs = self._client.costs
        made = [await costs.set_budget(TENANT_LIMIT)]
        made += [await costs.set_budget(limit, project=name) for name, limit in PROJECT_LIMITS.items()]
        made += [await costs.set_budget(limit, agent=name) for name, limit in AGENT_LIMITS.items()]
        words = [
            self.mark,
            *(f"project:{name}" for name in PROJECT_LIMITS),
            *(f"agent:{name}" for name in AGENT_LIMITS),
        ]
        self.budgets = {word: to_uuid(budget.budget_id, "budget") for word, budget in zip(words, made, strict=True)}
        for name in (*AGENT_LIMITS, _FREE_AGENT):
            await self._client.agents.create(
                name, instructions=f"You are agent:{name}. Be brief.", max_output_tokens=_MOST_TOKENS
            )

    @asynccontextmanager
    async def keyed(self, url: str) -> AsyncIterator[None]:
        """Has a key for each project while the block runs."""
        async with AsyncExitStack() as opened:
            for name in (*PROJECT_LIMITS, _ELSEWHERE):
                made = await self._client.identity.create_key(name, project=name)
                client = AsyncClient(url, api_key=made.secret)
                self._by_project[name] = await opened.enter_async_context(client)
            yield

    async def caller(self, stop: asyncio.Event) -> None:
        """Asks the model again and again, each time for another project, in prompts of any length."""
        while not stop.is_set():
            elsewhere = [_ELSEWHERE] if len(self.sessions) >= _SESSIONS_BEFORE else []
            project = self._dice.choice([*PROJECT_LIMITS, *elsewhere])
            words = " ".join(["river"] * self._dice.randrange(_MOST_WORDS))
            prompt = f"{self.mark} project:{project} {words}"
            try:
                await self._by_project[project].models.generate(prompt, max_output_tokens=_MOST_TOKENS)
                self.answered += 1
            except RateLimited:
                pass
            except LimitReached as error:
                self._refuse(error)
            except (MeshUnavailable, TimedOut):
                self.unknown += 1
            await asyncio.sleep(self._dice.uniform(0, 2 * _PAUSE_SECONDS))

    async def runner(self, stop: asyncio.Event) -> None:
        """Runs debates one after the other, and follows each to its end."""
        while not stop.is_set():
            number = next(self._numbers)
            project = _ELSEWHERE if number < _SESSIONS_BEFORE else self._dice.choice([*PROJECT_LIMITS, _ELSEWHERE])
            agents = tuple(AGENT_LIMITS) if number % 2 else (_FREE_AGENT,)
            try:
                self.sessions.append(await self._debate(project, agents))
            except LimitReached as error:
                self._refuse(error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _debate(self, project: str, agents: tuple[str, ...]) -> session_pb2.Session:
        request_id = str(uuid4())
        session = await patiently(
            lambda: self._client.sessions.start(
                f"{self.mark} project:{project} run:{request_id}",
                agents=agents,
                max_rounds=3,
                max_cost_nano_usd=RUN_LIMIT,
                metadata={"project": project},
                request_id=request_id,
            )
        )
        self.budgets[f"run:{request_id}"] = to_uuid(session.budget_id, "budget")
        session_id = session.session_id
        async with asyncio.timeout(_SESSION_SECONDS):
            while session.state not in TERMINAL_STATES:
                await asyncio.sleep(_PAUSE_SECONDS)
                session = await patiently(lambda: self._client.sessions.get(session_id))
        if session.state_reason == "BUDGET_EXHAUSTED":
            self._count(next((kind for kind in KINDS if f"{kind}:" in session.state_message), "tenant"))
        return session

    async def until_refused(self) -> None:
        """Waits until budgets of each kind have refused something."""
        await asyncio.wait_for(self._all_refused.wait(), _SESSION_SECONDS)

    def _refuse(self, error: LimitReached) -> None:
        assert error.reason == "BUDGET_EXHAUSTED", error
        self._count(error.metadata["budget_name"].partition(":")[0])

    def _count(self, kind: str) -> None:
        self.refused[kind] += 1
        if set(self.refused) == set(KINDS):
            self._all_refused.set()

    def check_split(self, books: Books) -> int:
        """Checks that each hold spends from the budgets that its prompt names; gives how many there were."""
        prompts = [call for call in books.calls if self.mark in call.text]
        for call in prompts:
            named = {id_ for word, id_ in self.budgets.items() if word in call.text}
            assert set(books.holds[call.hold]["budget_ids"]) == named, call
        return len(prompts)


@asynccontextmanager
async def spenders(mesh: RunningMesh, operator: AsyncClient, dice: Random) -> AsyncIterator[Spenders]:
    """Makes a tenant that may spend little, and gives who spends for it while the block runs."""
    mark = f"spender{dice.getrandbits(64):016x}"
    made = await operator.tenants.create(mark)
    async with AsyncClient(mesh.url, api_key=made.admin_api_key) as client:
        one = Spenders(client, mark, dice)
        await patiently(one.prepare)
        async with one.keyed(mesh.url):
            yield one


def answer_slowly(provider: ProviderProcess) -> None:
    """Has the model take its time, and answer with fewer tokens than were held."""
    provider.behave(default=True, text=_ANSWER, completion_tokens=_ANSWER_TOKENS, wait=_ANSWER_SECONDS)
