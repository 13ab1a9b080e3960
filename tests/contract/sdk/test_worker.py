"""A worker of the SDK against the step pools, through every layer of the server."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import journal_pb2
from comitia_sdk.errors import PermissionDenied
from comitia_sdk.worker import GiveBack, Step, StepFailed, Worker, WorkerNews
from comitia_sdk.worker import session as sessions
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role
from services.meshkit.testing.local_server import LocalServer, local_server
from services.orchestrator.engine.leases import Offer
from services.orchestrator.engine.step_pools import StepPools
from tests.contract.sdk.conftest import Comitia
from tests.support.step_workers import LIMITS, TENANT, a_step, key_of, worker_door


@dataclass
class Served:
    """Step pools behind a server, and the facts that came of their steps."""

    pools: StepPools
    server: LocalServer
    facts: asyncio.Queue[journal_pb2.JournalEntry] = field(default_factory=asyncio.Queue[journal_pb2.JournalEntry])

    def offer(
        self, name: str = "charge", *, item: int = 0, run_id: str = "run_a", project: str = "", **wishes: Any
    ) -> None:
        """Asks for a step."""
        path = f"nodes/{name}/{item}" if item else f"nodes/{name}"
        entry = a_step(path, name=name, **wishes)
        offer = Offer(TENANT, run_id, key_of(entry), entry, self.facts.put_nowait, project=project)
        assert self.pools.offer(offer, again=lambda: None)

    async def output(self) -> Any:
        """Waits for the next outcome; gives its output as JSON has it."""
        fact = await self.fact()
        assert fact.HasField("call_answered"), fact
        return journal_pb2.StepResult.FromString(fact.call_answered.response).output

    async def failure(self) -> journal_pb2.CallFailed:
        """Waits for the next outcome, which is a failure."""
        fact = await self.fact()
        assert fact.HasField("call_failed"), fact
        return fact.call_failed

    async def fact(self) -> journal_pb2.JournalEntry:
        """Waits for the next outcome."""
        async with asyncio.timeout(10):
            return await self.facts.get()


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Served]:
    pools = StepPools(clock=SystemClock(), limits=LIMITS)
    timer = asyncio.create_task(pools.keep_time())
    async with local_server(
        worker_door(pools).registration, guards=GUARDS, folder=folder, name="orchestrator"
    ) as server:
        yield Served(pools, server)
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with serving(tmp_path) as made:
        yield made


@dataclass
class Working:
    """A worker at work, and what it told."""

    stop: asyncio.Event
    task: asyncio.Task[None]
    news: asyncio.Queue[WorkerNews]

    async def hears(self, kind: str) -> WorkerNews:
        """Waits for news of a kind."""
        async with asyncio.timeout(10):
            while (found := await self.news.get()).kind != kind:
                pass
        return found


@asynccontextmanager
async def at_work(
    worker: Worker, served: Served, *, role: Role = Role.TENANT_USER, grace: float = 5
) -> AsyncGenerator[Working]:
    """Has a worker work while the block runs; then it stops in order."""
    news: asyncio.Queue[WorkerNews] = asyncio.Queue()
    stop = asyncio.Event()
    token = served.server.keys.principal(role).token.reveal()
    url = f"http://{served.server.target}"
    task = asyncio.create_task(worker.work(stop, url=url, access_token=token, grace=grace, tell=news.put_nowait))
    try:
        yield Working(stop, task, news)
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await task


async def test_functions_make_steps_whether_they_are_async_or_not(served: Served) -> None:
    worker = Worker("w", concurrency=4)

    @worker.step("double")
    async def doubled(step: Step, amount: int) -> dict[str, Any]:
        assert type(amount) is int
        return {"twice": amount * 2, "key": step.key, "attempt": step.attempt}

    @worker.step()
    def blocking(amount: int, **others: object) -> list[Any]:
        return [amount, None, True, 0.5, threading.current_thread() is not threading.main_thread()]

    served.offer("double", attempt=3)
    async with at_work(worker, served):
        given = (await served.output()).struct_value
        assert (given["twice"], given["key"], given["attempt"]) == (14, "run_a/nodes/double", 3)
        served.offer("blocking")
        assert list((await served.output()).list_value) == [7, None, True, 0.5, True]


async def test_a_worker_serves_the_projects_that_it_names(served: Served) -> None:
    worker = Worker("w", projects=["claims", "payroll"])

    @worker.step()
    async def charge(step: Step, amount: int) -> str:
        return step.run_id

    for project in ("", "claims", "payroll"):
        served.offer(run_id=f"run_{project}", project=project)
    async with at_work(worker, served):
        assert {(await served.output()).string_value for _ in range(2)} == {"run_claims", "run_payroll"}


async def test_what_goes_wrong_is_a_failure_of_its_step_with_a_reason(served: Served) -> None:
    worker = Worker("w")

    @worker.step()
    async def declined(amount: int) -> None:
        raise StepFailed(f"no {amount}", reason="CARD_DECLINED", permanent=True)

    @worker.step()
    def broken(amount: int) -> None:
        raise ConnectionError("the bank is down")

    @worker.step()
    async def misfit(sum_: int) -> None: ...

    @worker.step()
    async def huge(amount: int) -> str:
        return "x" * 300_000

    @worker.step()
    async def odd(amount: int) -> dict[str, Any]:
        return {"rows": [{"when": timedelta(1)}]}

    async with at_work(worker, served):
        for name, reason, final, said in (
            ("declined", "CARD_DECLINED", True, "no 7"),
            ("broken", "STEP_FAILED", False, "ConnectionError: the bank is down"),
            ("misfit", "INPUT_INVALID", True, "does not fit the function of step 'misfit': missing a required"),
            ("huge", "OUTPUT_TOO_LARGE", True, "300,004 bytes, and 262,144 are allowed; store it elsewhere"),
            ("odd", "OUTPUT_NOT_JSON", True, "the output.rows[0].when is a timedelta"),
        ):
            served.offer(name)
            failure = await served.failure()
            assert (failure.reason, failure.final) == (reason, final)
            assert said in failure.message


async def test_no_more_steps_are_made_at_once_than_it_was_told(served: Served) -> None:
    worker, at_once, most = Worker("w", concurrency=3), 0, 0
    full, go_on = asyncio.Event(), asyncio.Event()

    @worker.step()
    async def charge(amount: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 3:
            full.set()
        await go_on.wait()
        at_once -= 1

    for item in range(1, 11):
        served.offer(item=item)
    async with at_work(worker, served):
        async with asyncio.timeout(10):
            await full.wait()
        go_on.set()
        assert {(await served.fact()).path for _ in range(10)} == {f"nodes/charge/{item}" for item in range(1, 11)}
    assert most == 3


async def test_a_cancel_reaches_the_function(served: Served) -> None:
    worker = Worker("w")
    began, ended = asyncio.Queue[str](), asyncio.Queue[str]()
    loop = asyncio.get_running_loop()

    @worker.step()
    async def patient(amount: int) -> None:
        began.put_nowait("patient")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("patient")
            raise

    @worker.step()
    def blocking(step: Step, amount: int) -> None:
        loop.call_soon_threadsafe(began.put_nowait, "blocking")
        assert step.wait(10)
        loop.call_soon_threadsafe(ended.put_nowait, "blocking")
        step.check()

    async with at_work(worker, served) as working, asyncio.timeout(10):
        served.offer("patient")
        served.offer("blocking")
        assert {await began.get(), await began.get()} == {"patient", "blocking"}
        served.pools.withdraw("run_a")
        assert {await ended.get(), await ended.get()} == {"patient", "blocking"}
        assert (await working.hears("revoked")).step is not None
        # Both places are free again.
        for item in range(1, 9):
            served.offer("patient", run_id="run_b", item=item)
        assert [await began.get() for _ in range(8)] == ["patient"] * 8
        served.pools.withdraw("run_b")
    assert served.facts.empty()


async def test_signs_of_life_go_out_by_themselves(served: Served) -> None:
    worker, go_on = Worker("w"), asyncio.Event()

    @worker.step()
    async def charge(amount: int) -> str:
        await go_on.wait()
        return "done"

    heard = asyncio.Event()
    beats = 0
    take = served.pools.heard

    def listening(desk: Any, lease_ids: Any) -> None:
        nonlocal beats
        beats += 1
        take(desk, lease_ids)
        if beats == 4:
            heard.set()

    served.pools.heard = listening
    served.offer(heartbeat=0.5)
    async with at_work(worker, served), asyncio.timeout(10):
        await heard.wait()
        go_on.set()
        assert (await served.output()).string_value == "done"


async def test_a_step_can_be_given_back_for_later(served: Served) -> None:
    worker, tried = Worker("w"), 0

    @worker.step()
    async def charge(amount: int) -> int:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise GiveBack(timedelta(milliseconds=1))
        if tried == 2:
            raise GiveBack
        return tried

    served.offer()
    async with at_work(worker, served):
        assert (await served.output()).number_value == 3
    with pytest.raises(ValueError, match="0 to 1 hour"):
        GiveBack(timedelta(hours=2))


async def test_the_life_of_a_worker_is_hooked(served: Served) -> None:
    worker, life = Worker("w"), list[str]()

    @worker.on_start
    async def started() -> None:
        life.append("start")

    @worker.on_stop
    def stopped() -> None:
        life.append("stop")

    @worker.before_step
    async def before(step: Step) -> None:
        life.append(f"before {step.name}")
        if step.path == "nodes/refused":
            raise StepFailed("not on Sundays", reason="CLOSED")

    @worker.after_step
    def after(step: Step) -> None:
        life.append(f"after {step.name}")

    @worker.step()
    async def charge(amount: int) -> None:
        life.append("charge")

    @worker.step()
    async def refused(amount: int) -> None:
        life.append("never")

    served.offer()
    async with at_work(worker, served):
        await served.output()
        served.offer("refused")
        assert (await served.failure()).reason == "CLOSED"
    assert life == ["start", "before charge", "charge", "after charge", "before refused", "stop"]


async def test_a_worker_that_stops_finishes_what_it_has_and_takes_no_more(served: Served) -> None:
    worker, go_on, began = Worker("w", concurrency=1), asyncio.Event(), asyncio.Event()

    @worker.step()
    async def charge(amount: int) -> str:
        began.set()
        await go_on.wait()
        return "finished"

    served.offer()
    async with at_work(worker, served) as working, asyncio.timeout(10):
        await began.wait()
        served.offer(item=1)
        working.stop.set()
        assert (await working.hears("draining")).text == "1 steps at work"
        go_on.set()
        assert (await served.output()).string_value == "finished"
        await working.hears("stopped")
    assert served.facts.empty()
    served.pools.withdraw("run_a")


async def test_what_is_not_done_in_time_is_given_back_to_others(served: Served) -> None:
    slow, quick, began = Worker("slow"), Worker("quick"), asyncio.Event()

    @slow.step("charge")
    async def never(amount: int) -> None:
        began.set()
        await asyncio.Event().wait()

    @quick.step("charge")
    async def done(amount: int) -> str:
        return "quick"

    served.offer()
    async with at_work(slow, served, grace=0), asyncio.timeout(10):
        await began.wait()
    async with at_work(quick, served):
        assert (await served.output()).string_value == "quick"


async def test_a_worker_goes_on_with_what_it_has_when_its_stream_breaks(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_FIRST_PAUSE", 0.01)
    worker, made = Worker("w", concurrency=2), 0
    began, go_on = asyncio.Event(), asyncio.Event()

    @worker.step()
    async def charge(amount: int) -> str:
        nonlocal made
        made += 1
        began.set()
        await go_on.wait()
        return "once"

    desks = list[Any]()
    connect = served.pools.connected

    def connecting(desk: Any, **options: Any) -> Any:
        desks.append(desk)
        return connect(desk, **options)

    served.pools.connected = connecting
    served.offer()
    async with at_work(worker, served) as working, asyncio.timeout(10):
        await began.wait()
        await working.hears("connected")
        # As a message that nobody can read would.
        served.pools.frames = _breaking(served.pools.frames)
        desks[0].refuse(1, "LEASE_EXPIRED")
        assert "trying again" in (await working.hears("disconnected")).text
        await working.hears("connected")
        go_on.set()
        assert (await served.output()).string_value == "once"
    assert made == 1
    assert len(desks) == 2


async def test_a_replica_that_drains_is_left_without_a_gap(served: Served) -> None:
    worker, began, go_on = Worker("w", concurrency=2), asyncio.Event(), asyncio.Event()

    @worker.step()
    async def charge(amount: int) -> str:
        began.set()
        await go_on.wait()
        return "finished"

    @worker.step()
    async def quick(amount: int) -> str:
        return "quick"

    desks = list[Any]()
    connect = served.pools.connected

    def connecting(desk: Any, **options: Any) -> Any:
        desks.append(desk)
        return connect(desk, **options)

    served.pools.connected = connecting
    served.offer()
    async with at_work(worker, served), asyncio.timeout(10):
        await began.wait()
        served.pools.drain(desks[0])
        served.offer("quick")
        assert (await served.output()).string_value == "quick"
        assert len(desks) == 2
        go_on.set()
        assert (await served.output()).string_value == "finished"


async def test_who_may_not_work_is_told_and_stops(served: Served) -> None:
    worker = Worker("w")

    @worker.step()
    async def charge(amount: int) -> None: ...

    with pytest.raises(PermissionDenied):
        async with at_work(worker, served, role=Role.AUDITOR) as working:
            await working.task


def test_what_cannot_be_a_worker_is_refused_when_it_is_written() -> None:
    with pytest.raises(ValueError, match="no name of a worker"):
        Worker("a b")
    with pytest.raises(ValueError, match="no name of a pool"):
        Worker("w", pool="1")
    with pytest.raises(ValueError, match="1 to 10000 steps at once"):
        Worker("w", concurrency=0)
    worker = Worker("w")
    worker.step("charge")(lambda: None)
    with pytest.raises(ValueError, match="two functions"):
        worker.step("charge")(lambda: None)
    with pytest.raises(ValueError, match="no name of a step"):
        worker.step("a b")(lambda: None)
    with pytest.raises(TypeError, match="fields of the input come by name"):
        worker.step("all")(lambda *all_: None)
    with pytest.raises(TypeError, match="import what its arguments are annotated with"):
        worker.step("later")(_annotated_later)
    with pytest.raises(ValueError, match="makes no steps"):
        asyncio.run(Worker("w").work(asyncio.Event()))
    with pytest.raises(ValueError, match="no reason"):
        StepFailed("no", reason="lower case")


def test_a_signal_stops_a_worker() -> None:
    worker = Worker("w")

    @worker.on_start
    def stop() -> None:
        signal.raise_signal(signal.SIGTERM)

    @worker.step()
    async def charge(amount: int) -> None: ...

    told = list[str]()
    worker.run(url="http://127.0.0.1:9", api_key="ck_nobody", tell=lambda news: told.append(news.kind))
    assert told[-2:] == ["draining", "stopped"]


def _annotated_later(card: "Missing") -> None:  # pyright: ignore[reportUndefinedVariable]  # noqa: F821  # as behind TYPE_CHECKING
    ...


def _breaking(frames: Callable[..., Any]) -> Callable[..., Any]:
    broken = False

    def once(desk: Any) -> Any:
        nonlocal broken
        if not broken:
            broken = True
            raise ConnectionResetError
        return frames(desk)

    return once


def test_the_command_line_says_which_worker_it_cannot_find(
    comitia: Comitia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "claims_steps.py").write_text(
        "from comitia_sdk.worker import Worker\nclaims = Worker('claims')\n", encoding="utf-8"
    )
    for place, said in (
        ("claims_steps", "'claims_steps' names no worker; it looks like claims:worker"),
        ("claims_steps:worker", "module 'claims_steps' has no worker 'worker'; it has claims"),
        ("no_such_steps:worker", "there is no module 'no_such_steps' here or installed"),
        ("claims_steps:claims", "worker 'claims' makes no steps; register functions with @worker.step()"),
    ):
        assert said in comitia("worker", "run", place, code=2).err
