"""A worker: which functions make which steps, and its life from the first stream to the last outcome."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from comitia_sdk.connection import Connection
from comitia_sdk.context import find_context
from comitia_sdk.credentials import credentials_of
from comitia_sdk.worker.job import call
from comitia_sdk.worker.session import WorkSession
from comitia_sdk.worker.step import Hook, Step, StepDefinition, StepFunction

MAX_CONCURRENCY: Final = 10_000
MAX_PROJECTS: Final = 100
#: Time for steps at work to end once the worker is told to stop, seconds.
DEFAULT_GRACE: Final = 30.0
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_POOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_STEP: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_SPELLING: Final = "it takes 1 to 63 letters, digits, '_', '-' and '.'"
#: Threads for functions that are not `async`: as many as are made at once, up to this.
_MOST_THREADS: Final = 256

Function = TypeVar("Function", bound=StepFunction)
OneHook = TypeVar("OneHook", bound=Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNews:
    """Something that happened to a worker.

    Attributes:
        kind: connected, disconnected, began, done, failed, given back, revoked, refused, draining or stopped.
        text: more about it, for people.
        step: which it is about, if it is about one.
        seconds: how long the step took.
    """

    kind: str
    text: str = ""
    step: Step | None = None
    seconds: float = 0.0


class Worker:
    """Makes steps of workflows.

    Args:
        name: for people; the name of the machine and the number of the process by default.
        pool: which steps it gets; a node of a workflow names one.
        concurrency: steps that it makes at once, 1 to 10,000.
        projects: whose runs it serves, at most 100; each takes the relation `editor`. `""` stands for runs of no
            project, and so does naming none; an API key that is bound to a project serves that one.
    Raises: ValueError.
    """

    def __init__(
        self, name: str = "", *, pool: str = "default", concurrency: int = 8, projects: Sequence[str] = ()
    ) -> None:
        self.name = name or _own_name()
        self.pool = pool
        self.concurrency = concurrency
        self.projects = (projects,) if isinstance(projects, str) else tuple(projects)
        self._steps: dict[str, StepDefinition] = {}
        self._hooks: dict[str, list[Hook]] = {"on_start": [], "on_stop": [], "before_step": [], "after_step": []}
        self._check_settings()

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that it makes."""
        return tuple(sorted(self._steps))

    def step(self, name: str = "") -> Callable[[Function], Function]:
        """Has a function make the steps of a name, that of the function by default.

        The fields of the step's input are its arguments, by name; an argument of type `Step` gets the step itself. It
        returns what JSON can hold, at most 256 KB. An `async` function is cancelled when nobody waits for the step any
        more; any other runs in a thread, and looks at `step.cancelled`.
        Raises: ValueError: the name is none, or taken. TypeError: the function cannot be called so.
        """

        def register(function: Function) -> Function:
            found = name or function.__name__
            if _STEP.fullmatch(found) is None:
                raise ValueError(f"{found!r} is no name of a step: {_SPELLING}, a letter first")
            if found in self._steps:
                raise ValueError(f"two functions make the step {found!r}")
            self._steps[found] = StepDefinition(found, function)
            return function

        return register

    def on_start(self, hook: OneHook) -> OneHook:
        """Has a function called before the first step."""
        self._hooks["on_start"].append(hook)
        return hook

    def on_stop(self, hook: OneHook) -> OneHook:
        """Has a function called after the last step, once for each start."""
        self._hooks["on_stop"].append(hook)
        return hook

    def before_step(self, hook: OneHook) -> OneHook:
        """Has a function called with `step` before each; what it raises is the step's failure."""
        self._hooks["before_step"].append(hook)
        return hook

    def after_step(self, hook: OneHook) -> OneHook:
        """Has a function called with `step` after each, however it ended."""
        self._hooks["after_step"].append(hook)
        return hook

    def run(
        self,
        *,
        url: str = "",
        api_key: str = "",
        grace: float = DEFAULT_GRACE,
        tell: Callable[[WorkerNews], None] | None = None,
    ) -> None:
        """Works until SIGTERM or SIGINT, then finishes what it has; a second signal gives it back at once.

        Raises: ComitiaError: the mesh refuses this worker for good.
        """
        asyncio.run(self._until_signalled(url, api_key, grace, tell))

    async def work(
        self,
        stop: asyncio.Event,
        *,
        url: str = "",
        api_key: str = "",
        access_token: str = "",
        grace: float = DEFAULT_GRACE,
        tell: Callable[[WorkerNews], None] | None = None,
    ) -> None:
        """Works until `stop` is set, then finishes what it has.

        A connection that breaks is opened again, for as long as it takes.

        Args:
            url, api_key, access_token: as `AsyncClient`.
            grace: time for steps at work to end, seconds; what is not done by then is given back.
            tell: is told what happens.
        Raises: ComitiaError: the mesh refuses this worker for good. ValueError: it makes no steps.
        """
        self.check()
        context = find_context(url=url, api_key=api_key)
        credentials = credentials_of(
            context.url, api_key=context.api_key, access_token=access_token, login=context.login
        )

        def told(kind: str, text: str, step: Step | None, seconds: float) -> None:
            if tell is not None:
                tell(WorkerNews(kind=kind, text=text, step=step, seconds=seconds))

        connection = Connection(context.url, credentials)
        threads = ThreadPoolExecutor(min(self.concurrency, _MOST_THREADS), thread_name_prefix="comitia-step")
        try:
            for hook in self._hooks["on_start"]:
                await call(hook, threads)
            session = WorkSession(
                connection,
                worker=self.name,
                pool=self.pool,
                concurrency=self.concurrency,
                projects=self.projects,
                definitions=self._steps,
                before=self._hooks["before_step"],
                after=self._hooks["after_step"],
                threads=threads,
                tell=told,
            )
            try:
                await session.work(stop, grace=grace)
            finally:
                for hook in self._hooks["on_stop"]:
                    await call(hook, threads)
                told("stopped", "", None, 0.0)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            await connection.close()

    async def _until_signalled(
        self, url: str, api_key: str, grace: float, tell: Callable[[WorkerNews], None] | None
    ) -> None:
        stop = asyncio.Event()
        working = asyncio.create_task(self.work(stop, url=url, api_key=api_key, grace=grace, tell=tell))

        def told_to_stop() -> None:
            if stop.is_set():
                working.cancel()
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told_to_stop)
        try:
            with suppress(asyncio.CancelledError):
                await working
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def check(self) -> None:
        """Looks whether it can work. Raises: ValueError: it makes no steps, or a setting cannot be."""
        self._check_settings()
        if not self._steps:
            raise ValueError(f"worker {self.name!r} makes no steps; register functions with @worker.step()")

    def _check_settings(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"{self.name!r} is no name of a worker: {_SPELLING}")
        if _POOL.fullmatch(self.pool) is None:
            raise ValueError(f"{self.pool!r} is no name of a pool: it takes 1 to 63 letters, digits, '_' and '-'")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"a worker makes 1 to {MAX_CONCURRENCY} steps at once, not {self.concurrency}")
        if len(self.projects) > MAX_PROJECTS:
            raise ValueError(f"a worker serves at most {MAX_PROJECTS} projects, not {len(self.projects)}")


def _own_name() -> str:
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:50]
    return f"{host}-{os.getpid()}"
