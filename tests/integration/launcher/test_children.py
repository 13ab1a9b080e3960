import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import psutil
import pytest

from services.launcher.child import ChildSpec
from services.launcher.children import ChildState, Supervisor
from services.launcher.errors import LauncherError
from services.launcher.health import always, listening
from services.launcher.options import Progress, StepState
from services.meshkit.core.clock import SystemClock

Begin = Callable[..., ChildSpec]


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
async def supervisor(told: list[Progress]) -> AsyncIterator[Supervisor]:
    made = Supervisor(clock=SystemClock(), dice=Random(1), report=told.append, changed=lambda: None)
    yield made
    await made.close()


@pytest.fixture
def program(tmp_path: Path) -> Begin:
    """Gives a child that runs some Python."""

    def make(code: str, *, name: str = "dummy", **changes: object) -> ChildSpec:
        fields = {
            "name": name,
            "command": (sys.executable, "-u", "-c", textwrap.dedent(code)),
            "environment": {},
            "probe": always,
            "log": tmp_path / f"{name}.log",
        }
        return ChildSpec(**(fields | changes))  # type: ignore[arg-type]

    return make


async def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_child_that_dies_at_once_is_told_in_one_sentence(supervisor: Supervisor, program: Begin) -> None:
    spec = program("print('starting'); print('the disk is full'); raise SystemExit(7)", probe=listening(1))

    with pytest.raises(LauncherError) as failure:
        await supervisor.start(spec, healthy_seconds=10)

    assert failure.value.sentence == (
        f"dummy ended with exit code 7 before the mesh was healthy; its log {spec.log} ends with: "
        "starting | the disk is full"
    )


async def test_a_child_that_never_gets_healthy_is_told_and_ended(supervisor: Supervisor, program: Begin) -> None:
    # No Python, which takes a machine that has more to do than it can longer to start than is waited for.
    spec = program("", command=("/bin/sh", "-c", "echo thinking; exec sleep 60"), probe=listening(1))

    with pytest.raises(LauncherError, match=r"dummy was not healthy after 2 s; .* ends with: thinking"):
        await supervisor.start(spec, healthy_seconds=2.0)

    process = supervisor.children["dummy"].process
    assert process is not None
    assert ended(process.pid)


async def test_a_program_that_does_not_exist_is_told(supervisor: Supervisor, program: Begin) -> None:
    spec = program("", command=("/no/such/program",), probe=listening(1))

    with pytest.raises(LauncherError, match=r"exit code 125 .*cannot start /no/such/program"):
        await supervisor.start(spec, healthy_seconds=10)


async def test_a_death_before_the_mesh_is_healthy_is_final(supervisor: Supervisor, program: Begin) -> None:
    await supervisor.start(program("import time; time.sleep(60)"), healthy_seconds=10)
    process = supervisor.children["dummy"].process
    assert process is not None

    os.kill(process.pid, signal.SIGKILL)

    failure = await asyncio.wait_for(supervisor.failed(), 10)
    assert "dummy ended with signal SIGKILL before the mesh was healthy" in failure.sentence


async def test_afterwards_a_child_that_dies_comes_back_and_both_are_told(
    supervisor: Supervisor, program: Begin, told: list[Progress]
) -> None:
    await supervisor.start(program("import time; time.sleep(60)"), healthy_seconds=10)
    supervisor.keep()
    child = supervisor.children["dummy"]
    assert child.process is not None
    first = child.process.pid

    os.kill(first, signal.SIGKILL)
    await until(lambda: child.restarts == 1 and child.state is ChildState.HEALTHY)

    assert child.process.pid != first
    assert [(step.state, step.detail.split(";")[0]) for step in told] == [
        (StepState.FAILED, "ended with signal SIGKILL"),
        (StepState.DONE, "serves again"),
    ]


async def test_a_child_that_keeps_dying_waits_longer_each_time(
    supervisor: Supervisor, program: Begin, told: list[Progress]
) -> None:
    supervisor.keep()
    await supervisor.start(program("import time; time.sleep(0.05)"), healthy_seconds=10)

    await until(lambda: supervisor.children["dummy"].restarts >= 2)

    waits = [float(step.detail.split(" s;")[0].rsplit(" ", 1)[1]) for step in told if step.state is StepState.FAILED]
    assert waits[1] > waits[0]


async def test_a_child_that_keeps_dying_waits_no_longer_than_it_may(program: Begin, told: list[Progress]) -> None:
    hasty = Supervisor(
        clock=SystemClock(), dice=Random(1), report=told.append, changed=lambda: None, most_wait_seconds=0.1
    )
    hasty.keep()
    await hasty.start(program("import time; time.sleep(0.05)"), healthy_seconds=10)

    await until(lambda: hasty.children["dummy"].restarts >= 6)
    await hasty.close()

    waits = [float(step.detail.split(" s;")[0].rsplit(" ", 1)[1]) for step in told if step.state is StepState.FAILED]
    assert max(waits) <= 0.1


async def test_stopping_asks_first_and_kills_after_the_bound(supervisor: Supervisor, program: Begin) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    spec = program(deaf, stop_seconds=0.3)
    await supervisor.start(spec, healthy_seconds=10)
    await until(lambda: "deaf" in spec.log.read_text())
    process = supervisor.children["dummy"].process
    assert process is not None

    began = time.monotonic()
    await supervisor.stop(["dummy"])

    assert 0.3 <= time.monotonic() - began < 5
    assert ended(process.pid)
    assert supervisor.children["dummy"].state is ChildState.STOPPED


async def test_a_child_past_the_bound_may_still_end_its_own_way(supervisor: Supervisor, program: Begin) -> None:
    slow = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: (print("cleared", flush=True), sys.exit(3)))
        print("slow", flush=True)
        time.sleep(60)
        """
    spec = program(slow, stop_seconds=0.3, death_signal=signal.SIGUSR1)
    await supervisor.start(spec, healthy_seconds=10)
    await until(lambda: "slow" in spec.log.read_text())

    await supervisor.stop(["dummy"])

    assert "cleared" in spec.log.read_text()


async def test_what_a_child_started_ends_with_it(supervisor: Supervisor, program: Begin, tmp_path: Path) -> None:
    spec = program(
        """
        import subprocess, sys, time
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
        time.sleep(60)
        """
    )
    await supervisor.start(spec, healthy_seconds=10)
    await until(lambda: spec.log.read_text().strip().isdecimal())
    grandchild = int(spec.log.read_text())

    await supervisor.stop(["dummy"])

    await until(lambda: ended(grandchild))


async def test_a_waiting_child_is_not_started_again_after_a_stop(supervisor: Supervisor, program: Begin) -> None:
    await supervisor.start(program("import time; time.sleep(0.05)"), healthy_seconds=10)
    supervisor.keep()
    child = supervisor.children["dummy"]
    await until(lambda: child.state is ChildState.WAITING)

    await supervisor.stop(["dummy"])

    assert child.state is ChildState.STOPPED


async def test_children_end_when_the_launcher_is_killed_and_so_does_what_they_started(tmp_path: Path) -> None:
    launcher = f"""
    import asyncio, pathlib, random, subprocess, sys
    from services.launcher.child import ChildSpec
    from services.launcher.children import Supervisor
    from services.launcher.health import always
    from services.meshkit.core.clock import SystemClock

    async def main():
        supervisor = Supervisor(
            clock=SystemClock(), dice=random.Random(1), report=lambda step: None, changed=lambda: None
        )
        starts_another = (
            "import subprocess, sys, time, os;"
            "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
            "print(os.getpid(), other.pid, flush=True);"
            "time.sleep(60)"
        )
        await supervisor.start(
            ChildSpec(
                name="dummy",
                command=(sys.executable, "-c", starts_another),
                environment={{}},
                probe=always,
                log=pathlib.Path({str(tmp_path)!r}, "dummy.log"),
            ),
            healthy_seconds=10,
        )
        print("ready", flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(launcher), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    log = tmp_path / "dummy.log"
    await until(lambda: len(log.read_text().split()) == 2)
    family = [int(pid) for pid in log.read_text().split()]
    assert not any(map(ended, family))

    process.kill()
    await process.wait()

    await until(lambda: all(map(ended, family)))
