"""All seven services on one loop: the same wirings, the same ports, the same gRPC."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from services.launcher.errors import LauncherError, first_failure
from services.launcher.services import SERVICES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import IdSource
from services.meshkit.core.imports import for_good

#: `async with wiring(settings, clock=…, ids=…) as server`.
Wiring = Callable[..., AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def serve_all(
    *, clock: Clock, ids: IdSource, report: Callable[[str, float], None], log: Path
) -> AsyncGenerator[Mapping[str, int]]:
    """Serves all services while the block runs, then drains them, callers first.

    Settings come from this process' environment, where each service finds its own prefix; set it before.

    Args:
        report: told each service that serves, with its seconds.
        log: file that receives the log lines of all services.
    Yields: ports by service.
    Raises: LauncherError: a service cannot start.
    """
    from services.meshkit.grpc.server import serve

    ports: dict[str, int] = {}
    loaded = await asyncio.to_thread(_load_all, log)
    async with AsyncExitStack() as stack:
        for service, (wiring, settings) in loaded.items():
            began = clock.monotonic()
            try:
                server = await stack.enter_async_context(wiring(settings, clock=clock, ids=ids))
                serving = await stack.enter_async_context(serve(server))
            except (MeshError, OSError) as cause:
                raise LauncherError(f"{service} cannot start: {cause}; see {log}") from cause
            ports[service] = serving.port
            report(service, clock.monotonic() - began)
        yield ports
    await asyncio.to_thread(_end_traces)


class ServicesTogether:
    """Owns the task in which the services of a single process live."""

    def __init__(self, *, clock: Clock, ids: IdSource, report: Callable[[str, float], None], log: Path) -> None:
        self._clock = clock
        self._ids = ids
        self._report = report
        self._log = log
        self._serving = asyncio.Event()
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def preload(self) -> None:
        """Imports the services while the servers they need are still starting.

        Raises: LauncherError: one cannot be imported.
        """
        for service in SERVICES:
            await asyncio.to_thread(_import_wiring, service)

    async def start(self) -> None:
        """Starts the services and returns when all of them serve.

        Raises: LauncherError: one cannot start.
        """
        self._task = asyncio.create_task(self._serve(), name="services")
        serving = asyncio.create_task(self._serving.wait())
        try:
            await asyncio.wait({self._task, serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
        if self._task.done():
            await self.wait()

    async def wait(self) -> None:
        """Waits until the services end, which they do together.

        Raises: LauncherError: one of them failed.
        """
        assert self._task is not None
        try:
            await asyncio.shield(self._task)
        except* LauncherError as failures:
            raise first_failure(failures) from None
        except* (MeshError, OSError) as failures:
            raise LauncherError(f"the services broke: {_first(failures)}; see {self._log}") from failures

    async def stop(self) -> None:
        """Drains the services and ends the task."""
        if self._task is None:
            return
        self._end.set()
        if not self._serving.is_set():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        async with serve_all(clock=self._clock, ids=self._ids, report=self._report, log=self._log):
            self._serving.set()
            await self._end.wait()


def _load_all(log: Path) -> dict[str, tuple[Wiring, Any]]:
    """Imports the services, reads their settings, and turns their logs and traces on."""
    from services.meshkit.telemetry.setup import setup

    loaded = {service: (_import_wiring(service), _read_settings(service)) for service in SERVICES}
    # The log writes to what standard output is now; the terminal belongs to the progress display.
    with redirect_stdout(log.open("a", encoding="utf-8")):
        setup("comitia", loaded["gateway"][1])
    armed: set[str] = {settings.failpoints for _, settings in loaded.values() if settings.failpoints}
    if armed:
        # Production loads nothing that fails on purpose.
        from services.meshkit.testing import failpoints

        failpoints.arm(",".join(sorted(armed)))
    return loaded


def _end_traces() -> None:
    from services.meshkit.telemetry.tracing import end_tracing

    end_tracing()


def _import_wiring(service: str) -> Wiring:
    """Raises: LauncherError: the service cannot be imported."""
    try:
        with for_good():
            return cast(Wiring, getattr(import_module(f"services.{service}.wiring"), service))
    except ImportError as cause:
        raise LauncherError(f"{service} cannot be imported ({cause}); run `make setup` in a checkout") from cause


def _read_settings(service: str) -> Any:
    """Raises: LauncherError: a setting is wrong."""
    from services.meshkit.settings_reader import WrongSettings, read_settings

    settings = getattr(import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")
    try:
        return read_settings(settings)
    except WrongSettings as cause:
        raise LauncherError(f"{service} cannot start: {cause}") from cause


def _first(group: BaseExceptionGroup[MeshError | OSError]) -> BaseException:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
