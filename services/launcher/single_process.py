"""All seven services on one loop: the same wirings, the same ports, the same gRPC."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, Final, cast

from services.launcher.errors import LauncherError, first_failure
from services.launcher.services import SERVICES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import IdSource

#: `async with wiring(settings, clock=…, ids=…) as server`.
Wiring = Callable[..., AbstractAsyncContextManager[Any]]

#: Stopping goes against the order of starting: a caller ends before those it calls.
_ORDER: Final = SERVICES


@asynccontextmanager
async def serve_all(
    *, clock: Clock, ids: IdSource, report: Callable[[str, float], None], services: tuple[str, ...] = _ORDER
) -> AsyncGenerator[Mapping[str, int]]:
    """Serves all services while the block runs, then drains them, callers first.

    Settings come from this process' environment, where each service finds its own prefix; set it before.

    Args:
        report: told each service that serves, with its seconds.
    Yields: ports by service.
    Raises: LauncherError: a service cannot start.
    """
    from services.meshkit.grpc.server import serve

    ports: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        for service in services:
            began = clock.monotonic()
            wiring, settings = await asyncio.to_thread(_load, service)
            try:
                server = await stack.enter_async_context(wiring(settings, clock=clock, ids=ids))
                serving = await stack.enter_async_context(serve(server))
            except (MeshError, OSError) as cause:
                raise LauncherError(f"{service} cannot start: {cause}") from cause
            ports[service] = serving.port
            report(service, clock.monotonic() - began)
        yield ports


class ServicesTogether:
    """Owns the task in which the services of a single process live."""

    def __init__(self, *, clock: Clock, ids: IdSource, report: Callable[[str, float], None]) -> None:
        self._clock = clock
        self._ids = ids
        self._report = report
        self._serving = asyncio.Event()
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

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

    async def stop(self) -> None:
        """Drains the services and ends the task."""
        if self._task is None:
            return
        self._end.set()
        if not self._serving.is_set():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        async with serve_all(clock=self._clock, ids=self._ids, report=self._report):
            self._serving.set()
            await self._end.wait()


def _load(service: str) -> tuple[Wiring, Any]:
    """Imports a service and reads its settings.

    Raises: LauncherError: it cannot be imported, or a setting is wrong.
    """
    from pydantic import ValidationError

    try:
        wiring = cast(Wiring, getattr(import_module(f"services.{service}.wiring"), service))
        settings = import_module(f"services.{service}.settings").Settings()
    except ImportError as cause:
        raise LauncherError(f"{service} cannot be imported ({cause}); run `make setup` in a checkout") from cause
    except ValidationError as cause:
        wrong = cause.errors(include_input=False)[0]
        raise LauncherError(f"a setting of {service} is wrong: {wrong['loc'][0]}: {wrong['msg']}") from cause
    return wiring, settings
