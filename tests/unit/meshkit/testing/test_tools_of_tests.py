"""The tools of tests do what they promise, or no test means anything."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.failpoints import failpoint, register, registered
from services.meshkit.core.ids import to_uuid
from services.meshkit.testing import failpoints
from services.meshkit.testing.failpoints import FailpointHit
from services.meshkit.testing.fake_clock import NOON, FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.seeded_ids import SeededIds


async def test_sleepers_wake_in_order_when_time_moves() -> None:
    clock = FakeClock()
    woken: list[tuple[int, float]] = []

    async def sleep(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for seconds in (30, 10, 20):
            tasks.create_task(sleep(seconds))
        await clock.until_someone_sleeps(how_many=3)
        clock.advance(seconds=25)
        await asyncio.sleep(0)
        assert [seconds for seconds, _ in woken] == [10, 20]
        assert clock.sleepers == 1
        clock.advance(seconds=5)
    assert [seconds for seconds, _ in woken] == [10, 20, 30]
    assert (clock.now() - NOON).total_seconds() == 30


async def test_waiting_for_a_sleeper_that_never_comes_ends() -> None:
    with pytest.raises(TimeoutError):
        await FakeClock().until_someone_sleeps(within_seconds=0.01)


def test_seeded_ids_repeat_and_sort() -> None:
    first, second = SeededIds(7), SeededIds(7)
    made = [first.new("run") for _ in range(50)]
    assert made == [second.new("run") for _ in range(50)]
    assert made == sorted(set(made))
    assert all(to_uuid(one, "run").version == 7 for one in made)


def test_faults_come_in_the_order_they_were_queued() -> None:
    faults = FaultQueue()
    faults.next(Unavailable("x"), after=1, times=2)
    faults.hit()
    for _ in range(2):
        with pytest.raises(Unavailable):
            faults.hit()
    faults.hit()
    assert faults.raised == 2


class TestFailpoints:
    @pytest.fixture(autouse=True)
    def _disarm(self) -> object:
        yield
        failpoints.arm("")

    async def test_nothing_happens_unless_armed(self) -> None:
        await failpoint("any")

    async def test_an_armed_one_fails_and_its_neighbours_do_not(self) -> None:
        failpoints.arm("a.b=error")
        await failpoint("a.c")
        with pytest.raises(FailpointHit):
            await failpoint("a.b")

    async def test_a_hit_can_be_chosen(self) -> None:
        failpoints.arm("a=error@3, b=delay:1")
        for _ in range(2):
            await failpoint("a")
        with pytest.raises(FailpointHit):
            await failpoint("a")
        await failpoint("a")
        await failpoint("b")

    async def test_a_file_says_when(self, tmp_path: Path) -> None:
        failpoints.arm(f"a=error:{tmp_path},b=error:{tmp_path}")
        await failpoint("a")
        (tmp_path / "a").touch()
        await failpoint("b")
        with pytest.raises(FailpointHit):
            await failpoint("a")
        await failpoint("a")

    @pytest.mark.parametrize(
        "text", ["a", "a=", "a=burn", "a=delay", "a=delay:x", "a=kill:5", "a=delay:/x", "a=error@x", "=kill"]
    )
    def test_a_misspelt_description_is_refused(self, text: str) -> None:
        with pytest.raises(Invalid):
            failpoints.arm(text)

    def test_names_are_listed_once_registered(self) -> None:
        register("test.b", "test.a")
        assert [name for name in registered() if name.startswith("test.")] == ["test.a", "test.b"]

    def test_kill_leaves_no_time_to_clean_up(self) -> None:
        code = (
            "import asyncio, atexit\n"
            "from services.meshkit.core.failpoints import failpoint\n"
            "from services.meshkit.testing import failpoints\n"
            "atexit.register(print, 'cleaned up')\n"
            "failpoints.arm('a=kill')\n"
            "asyncio.run(failpoint('a'))\n"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
        assert (ended.returncode, ended.stdout.count("cleaned up")) == (-signal.SIGKILL, 0)
