"""The books of the whole mesh beside the provider's meter: what must hold of money after any fault (INV-6, INV-7)."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.cost.domain.hold import OPEN_STATES, HoldState
from services.meshkit.core.ids import to_uuid
from tests.support.held_calls import AWAY
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected

#: Cost looks for expired holds once a second; this late at most it has found one.
SWEEP: Final = timedelta(seconds=6)
#: What the provider's price page says, in nano-USD for a token in and one out; not read from the ledger on purpose.
LIST_PRICES: Final[Mapping[str, tuple[int, int]]] = {"gpt-4o-mini": (150, 600), "text-embedding-3-small": (20, 0)}
#: The sweep of inference leaves young settlements alone for 20 s, and looks every 15.
_SETTLE_SECONDS: Final = 45.0
#: A call takes a second or two; whose hold is open for longer has died.
_DEAD: Final = timedelta(seconds=10)
_EXPIRE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """How much there was to check; a test states a floor, or it could pass on nothing."""

    #: Calls that the provider served to their end.
    served: int
    #: Of those, settled with exactly their tokens.
    settled: int
    #: Holds that nobody could settle, still dispatched or charged at their bound: state, when it was made, what for.
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the provider's meter has it."""

    hold: UUID
    model: str
    prompt_tokens: int
    completion_tokens: int
    confirmed: bool
    #: Name of what the provider was told to do with it, if that was anything special.
    behaviour: str
    #: What was asked, or nothing for a call whose body was not asked for.
    text: str

    @property
    def price(self) -> int:
        """What it costs by the price page, nano-USD, answered to its end or not."""
        of_input, of_output = LIST_PRICES[self.model]
        return self.prompt_tokens * of_input + self.completion_tokens * of_output


@dataclass(frozen=True, slots=True)
class Books:
    """Holds, budgets and the ledger in one snapshot, and the meter as it stood then."""

    holds: Mapping[UUID, asyncpg.Record]
    budgets: Mapping[UUID, asyncpg.Record]
    events: tuple[asyncpg.Record, ...]
    calls: tuple[Call, ...]

    def metered(self) -> Mapping[UUID, int]:
        """Gives what each budget owes the provider at most: all calls that it was asked for, at list price."""
        owed: dict[UUID, int] = defaultdict(int)
        for call in self.calls:
            for budget in self.holds[call.hold]["budget_ids"]:
                owed[budget] += call.price
        return owed

    def open_holds(self, tenants: Iterable[UUID]) -> int:
        """Counts the holds of tenants that still wait for their end."""
        wanted = set(tenants)
        return sum(hold["state"] in OPEN_STATES and hold["tenant_id"] in wanted for hold in self.holds.values())

    def ends(self) -> Counter[tuple[str, HoldState]]:
        """Counts what became of the holds of calls, by what the provider was told to do with them."""
        return Counter((call.behaviour, HoldState(self.holds[call.hold]["state"])) for call in self.calls)

    def checked(self, *, within: timedelta) -> Bill:
        """Compares everything with everything.

        Args:
            within: a hold past its end is swept up after this long.
        Raises: AssertionError: more was spent than was allowed, or something is not paid for, or paid for twice.
        """
        end = datetime.now(UTC) - within
        stale = [h for h in self.holds.values() if h["state"] in OPEN_STATES and h["expire_time"] < end]
        assert not stale, f"holds past their ttl: {stale}"
        self._check_budgets()
        self._check_calls()
        return self._bill()

    def _check_budgets(self) -> None:
        """Each budget is within its limit, says what the ledger and its holds say, and covers the provider's meter."""
        spent: Counter[UUID] = Counter()
        held: Counter[UUID] = Counter()
        for event in self.events:
            spent.update(dict.fromkeys(self.holds[event["hold_id"]]["budget_ids"], event["cost_nano_usd"]))
        for hold in self.holds.values():
            if hold["state"] in OPEN_STATES:
                held.update(dict.fromkeys(hold["budget_ids"], hold["amount_nano_usd"]))
        owed = self.metered()
        for id_, budget in self.budgets.items():
            stands = budget["spent_nano_usd"], budget["held_nano_usd"], budget["overrun_nano_usd"]
            assert stands == (spent[id_], held[id_], 0), budget
            assert sum(stands) <= budget["limit_nano_usd"], budget
            assert owed.get(id_, 0) <= budget["limit_nano_usd"], (
                f"the provider was asked for more: {owed[id_]}, {budget}"
            )

    def _check_calls(self) -> None:
        """Each charge is for one call as it was served; each call is charged, held, or charged at its bound."""
        calls = {call.hold: call for call in self.calls}
        assert len(calls) == len(self.calls), "a hold paid for two calls"
        charges = {event["hold_id"]: event for event in self._charges()}
        assert len(charges) == len(self._charges()), "charged twice"
        settled = {id_ for id_, hold in self._of_provider() if hold["state"] == HoldState.SETTLED}
        assert settled == set(charges)
        for id_, event in charges.items():
            assert id_ in calls, f"charged without a call: {event}"
            call = calls[id_]
            assert call.confirmed, f"charged without a confirmed call: {event}"
            told = event["model"], event["input_tokens"], event["output_tokens"]
            assert told == (call.model, call.prompt_tokens, call.completion_tokens)
            assert event["cost_nano_usd"] == call.price
        assumed = {event["hold_id"] for event in self.events if event["assumed"] and not event["reversal"]}
        for call in self.calls:
            hold = self.holds[call.hold]
            if hold["state"] != HoldState.SETTLED and call.price > 0:
                assert hold["state"] in (HoldState.DISPATCHED, HoldState.ASSUMED), f"neither charged nor held: {hold}"
                assert call.price <= hold["amount_nano_usd"], f"the bound does not cover the call: {call}, {hold}"
                assert (hold["state"] == HoldState.ASSUMED) == (call.hold in assumed), f"not named: {hold}"

    def _charges(self) -> list[asyncpg.Record]:
        """Gives the entries of the ledger for calls whose usage is known."""
        return [e for e in self.events if e["provider"] == "openai" and not e["assumed"] and not e["reversal"]]

    def _of_provider(self) -> list[tuple[UUID, asyncpg.Record]]:
        return [(id_, hold) for id_, hold in self.holds.items() if hold["provider"] == "openai"]

    def _bill(self) -> Bill:
        holds = self._of_provider()
        left = tuple(
            f"{HoldState(hold['state']).name} {id_} of {hold['created_time']:%T.%f} "
            f"for {hold['model']} in {hold['run_id']} {hold['path']}"
            for id_, hold in holds
            if hold["state"] in (HoldState.DISPATCHED, HoldState.ASSUMED)
        )
        return Bill(
            served=sum(call.confirmed for call in self.calls),
            settled=sum(hold["state"] == HoldState.SETTLED for _, hold in holds),
            left=left,
        )


async def read_books(mesh: RunningMesh, *, containing: str = "") -> Books:
    """Reads the books once nothing moves: the meter says the same before and after.

    Args:
        containing: calls whose body holds this come with it.
    """
    while True:
        before = mesh.provider.meter()
        holds, budgets, events = await _snapshot(mesh)
        if before == mesh.provider.meter():
            break
    assert before["unheld"] == 0
    bodies = mesh.provider.meter(containing)["calls"] if containing else []
    texts = {call["hold_id"]: str(call["body"]) for call in bodies}
    return Books(
        holds={hold["id"]: hold for hold in holds},
        budgets={budget["id"]: budget for budget in budgets},
        events=tuple(events),
        calls=tuple(_call(call, texts.get(call["hold_id"], "")) for call in before["calls"]),
    )


async def until_settled(mesh: RunningMesh) -> None:
    """Waits until the sweeper of inference has settled every recorded answer."""
    end = time.monotonic() + _SETTLE_SECONDS
    async with connected(mesh.data_dir, "inference") as connection:
        while pending := await connection.fetchval("SELECT count(*) FROM call WHERE settle_state = 'pending'"):
            assert time.monotonic() < end, f"{pending} recorded answers are not settled"
            await asyncio.sleep(_PAUSE_SECONDS)


async def expire_holds(mesh: RunningMesh, tenants: Iterable[UUID]) -> None:
    """Has the open holds of tenants end now, minutes before their time, and waits until cost has dealt with them."""
    end, ids = time.monotonic() + _EXPIRE_SECONDS, list(tenants)
    async with connected(mesh.data_dir, "cost") as connection:
        while left := await _end_holds(connection, ids, older_than=timedelta()):
            assert time.monotonic() < end, f"{left} do not expire"
            await asyncio.sleep(_PAUSE_SECONDS)


async def bury(mesh: RunningMesh, tenant: UUID) -> None:
    """Has holds end soon whose calls died with whoever made them, so that nobody waits minutes for their money."""
    while True:
        with suppress(*AWAY):
            async with connected(mesh.data_dir, "cost") as connection:
                await _end_holds(connection, [tenant], older_than=_DEAD)
        await asyncio.sleep(1.0)


async def _end_holds(connection: asyncpg.Connection, tenants: list[UUID], *, older_than: timedelta) -> str:
    """Moves the end of open holds to now; gives how many there were, or nothing."""
    theirs = "tenant_id = ANY($1) AND state = ANY($2) AND created_time < now() - $3::interval"
    query = f"UPDATE hold SET expire_time = now() WHERE {theirs}"
    done = await connection.execute(query, tenants, [int(state) for state in OPEN_STATES], older_than)
    return done if done != "UPDATE 0" else ""


def _call(metered: Mapping[str, Any], text: str) -> Call:
    return Call(
        hold=to_uuid(metered["hold_id"], "hold"),
        model=metered["model"],
        prompt_tokens=metered["prompt_tokens"],
        completion_tokens=metered["completion_tokens"],
        confirmed=metered["confirmed"],
        behaviour=metered["behaviour"],
        text=text,
    )


async def _snapshot(
    mesh: RunningMesh,
) -> tuple[list[asyncpg.Record], list[asyncpg.Record], list[asyncpg.Record]]:
    """Reads holds, budgets and the ledger in one snapshot."""
    async with connected(mesh.data_dir, "cost") as connection, connection.transaction(isolation="repeatable_read"):
        return (
            await connection.fetch("SELECT * FROM hold"),
            await connection.fetch("SELECT * FROM budget"),
            await connection.fetch("SELECT * FROM cost_event"),
        )
