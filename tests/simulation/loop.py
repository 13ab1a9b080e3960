"""An event loop in which nothing is left to chance: virtual time, and the order of what is ready drawn from a seed.

Whatever is scheduled belongs to the process whose context it runs in. So a process can be killed between any two steps
of its tasks, or stand still, and the others do not notice.
"""

import asyncio
import contextvars
import heapq
from asyncio import AbstractEventLoop, Handle, TimerHandle, events
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Steps at one moment of virtual time after which somebody is taken to spin.
_MOST_AT_ONCE: Final = 50_000
#: Steps between two looks whether all is over.
_STEPS_BETWEEN_LOOKS: Final = 16
#: Rounds in which what was cancelled has to have ended.
_MOST_TO_CLOSE: Final = 1_000


class Spinning(AssertionError):
    """Something goes round and round while time stands still."""


class Process:
    """What is killed, and what stands still, as one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.context = contextvars.Context()
        self.context.run(_process.set, self)
        self.dead = False
        #: What has become ready since it stands still, or is dead; None while it runs.
        self.held: list[Handle] | None = None
        #: What is to happen after so many of its steps more, and in how many.
        self._fuse: Callable[[], None] | None = None
        self._left = 0

    @property
    def stands_still(self) -> bool:
        """True between `SimulatedLoop.halt` and `SimulatedLoop.resume`."""
        return self.held is not None

    def after(self, steps: int, act: Callable[[], None]) -> None:
        """Has something happen to it after so many steps of its tasks, wherever they are then."""
        self._fuse, self._left = act, steps

    def stepped(self) -> None:
        """Counts a step."""
        if self._fuse is not None:
            self._left -= 1
            if self._left <= 0:
                act, self._fuse = self._fuse, None
                act()


_process: Final = contextvars.ContextVar[Process]("process")


def here() -> Process:
    """Gives the process of whoever asks."""
    return _process.get()


class _Task(asyncio.Task[T]):
    """A task with a place of its own in sets, which by address would have another one in every run."""

    numbers = count()

    def __init__(self, *args: Any, context: contextvars.Context | None, **fields: Any) -> None:
        self._number = next(self.numbers)
        self.process = (context or contextvars.copy_context()).get(_process)
        super().__init__(*args, context=context, **fields)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(AbstractEventLoop):
    """What asyncio needs of a loop, and no more: there are no sockets, threads or signals in here.

    Args:
        dice: order of what is ready at the same moment.
        disorder: how often something else than the oldest of it goes first, 0 to 1.
    """

    def __init__(self, dice: Random, *, disorder: float) -> None:
        self._random = dice.random
        self._disorder = disorder
        self._now = 0.0
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._order = count()
        self._at_once = 0
        #: How many steps were made in all.
        self.steps = 0
        #: What went wrong where nobody awaits it.
        self.faults: list[dict[str, Any]] = []
        self._tasks: list[_Task[Any]] = []
        self._most_tasks = 1_000
        _Task.numbers = count()

    # What asyncio asks of it.

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task = _Task[Any](coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > self._most_tasks:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._most_tasks = 2 * len(self._tasks) + 1_000
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        handle = TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Cancelled timers are passed over when their moment comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    # What simulations ask of it.

    def spawn(self, process: Process, work: Coroutine[Any, Any, T], *, name: str = "") -> asyncio.Task[T]:
        """Runs work as a task of a process."""
        return self.create_task(work, name=name or process.name, context=process.context.copy())

    def kill(self, process: Process) -> None:
        """Drops all that a process does, wherever it is: nothing of it runs any more."""
        process.dead = True
        self.halt(process)

    def halt(self, process: Process) -> None:
        """Has a process stand still."""
        if process.held is None:
            process.held = []

    def resume(self, process: Process) -> None:
        """Lets a process go on, with all that has come for it meanwhile."""
        if not process.dead:
            held, process.held = process.held, None
            self._ready += held or ()

    def run(self, until: Callable[[], bool]) -> None:
        """Makes one step after the other until something holds.

        Raises: Spinning. RuntimeError: nothing is left that could happen.
        """
        with self._running():
            while not until():
                for _ in range(_STEPS_BETWEEN_LOOKS):
                    self._step()

    def close(self) -> None:
        """Has all tasks end, those of the dead as well, so that nothing is left behind."""
        with self._running():
            # The order does not matter any more, nor does the time.
            for round_ in range(_MOST_TO_CLOSE):
                left = [task for task in self._tasks if not task.done()]
                if not left:
                    break
                if round_ == 0 or not self._ready:
                    for task in left:
                        if task.process is not None:
                            task.process.dead = False
                            self.resume(task.process)
                        task.cancel()
                    self._ready += [handle for _, _, handle in self._timers]
                    self._timers.clear()
                ready, self._ready = self._ready, []
                for handle in ready:
                    if not handle.cancelled():
                        handle._run()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # it counts as seen
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.clear()
        self._timers.clear()

    @contextmanager
    def _running(self) -> Generator[None]:
        before = events._get_running_loop()
        events._set_running_loop(None)
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    def _step(self) -> None:
        ready = self._ready
        if not ready:
            self._pass_time()
            return
        place = 0
        if len(ready) > 1 and self._disorder and self._random() < self._disorder:
            place = int(self._random() * len(ready))
        handle = ready.pop(place)
        if handle._cancelled:  # type: ignore[attr-defined]
            return
        process = handle._context.get(_process)  # type: ignore[attr-defined]
        if process is not None:
            if process.held is None:
                process.stepped()
            if process.held is not None:
                process.held.append(handle)
                return
        self.steps += 1
        self._at_once += 1
        if self._at_once > _MOST_AT_ONCE:
            raise Spinning(f"{_MOST_AT_ONCE} steps at the same moment, the last one of {handle!r}")
        handle._run()

    def _pass_time(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise RuntimeError("nothing is left that could happen")
        self._at_once = 0
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])
