"""Starts a mesh and keeps it running. The CLI and the tests call `up` and `run`; `status.py` looks on and ends it."""

import asyncio
import contextlib
import ctypes
import gc
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from random import Random
from typing import Final

from services.launcher import background
from services.launcher.bring_up import STOP_ORDER, BringUp, ServiceCommand, service_command, user_environment
from services.launcher.children import Supervisor
from services.launcher.errors import LauncherError, first_failure
from services.launcher.layout import DataDir, find_data_dir, hold, prepare
from services.launcher.options import Progress, Report, StepState, UpOptions
from services.launcher.ports import PortClaims
from services.launcher.record import Addresses, ChildRecord, MeshRecord, write_record
from services.launcher.services import SERVICES
from services.launcher.single_process import ServicesTogether
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds

_END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Mesh:
    """A mesh that this process started and keeps running. Made by `up`."""

    def __init__(self, data: DataDir, options: UpOptions, report: Report, command: ServiceCommand) -> None:
        self._data = data
        self._report = report
        self._started = time.time()
        self._ready = False
        self._resources = ExitStack()
        self._addresses: Addresses | None = None
        self._following: list[asyncio.Task[None]] = []
        clock = SystemClock()
        self._supervisor = Supervisor(
            clock=clock,
            dice=Random(),
            report=report,
            changed=self._write_record,
            most_wait_seconds=options.most_restart_wait_seconds,
        )
        self._together = (
            ServicesTogether(clock=clock, ids=SystemIds(), report=self._service_serves, log=data.log("services"))
            if options.single_process
            else None
        )
        self._parts = BringUp(
            data=data,
            options=options,
            supervisor=self._supervisor,
            report=report,
            user=user_environment(options),
            command=command,
            together=self._together,
        )

    @property
    def addresses(self) -> Addresses:
        """Where it is reached."""
        assert self._addresses is not None
        return self._addresses

    async def start(self) -> None:
        """Starts all parts and returns when all are healthy. Raises: LauncherError; nothing is left running then."""
        prepare(self._data)
        self._resources.enter_context(hold(self._data))
        try:
            self._parts.settle(self._resources.enter_context(PortClaims()))
            self._addresses = self._find_addresses()
            self._write_record()
            async with self._parts.step("mesh"):
                await self._unless_a_child_dies()
        except BaseException:
            await self.stop()
            raise
        self._supervisor.keep()
        self._following.append(asyncio.create_task(self._parts.token_check.follow(), name="edge-keys"))
        if self._parts.certificates is not None:
            self._following.append(asyncio.create_task(self._parts.certificates.follow(), name="certificates"))
        _settle_down()
        self._ready = True
        self._write_record()

    async def wait(self) -> None:
        """Waits for ever; children that die meanwhile are started again.

        Raises: LauncherError: the services of a single process failed.
        """
        if self._together is not None:
            await self._together.wait()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stops the edge, the services from callers to called, NATS and Postgres, and lets go of the data."""
        self._ready = False
        began = time.monotonic()
        self._report(Progress(step="stop", state=StepState.STARTED))
        for following in self._following:
            following.cancel()
        await self._supervisor.stop(STOP_ORDER[0])
        if self._together is not None:
            await self._together.stop()
        for row in STOP_ORDER[1:]:
            await self._supervisor.stop(row)
        await self._supervisor.close()
        self._report(Progress(step="stop", state=StepState.DONE, seconds=time.monotonic() - began))
        self._resources.close()

    async def _unless_a_child_dies(self) -> None:
        async def watch() -> None:
            raise await self._supervisor.failed()

        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch())
                await self._bring_up()
                watching.cancel()
        except* LauncherError as failures:
            raise first_failure(failures) from None

    async def _bring_up(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.start_edge())
            group.create_task(self._parts.start_east_west())
            group.create_task(self._parts.start_local_model())
            if self._together is not None:
                group.create_task(self._together.preload())
            await self._parts.start_servers()
            await self._parts.start_services()
        await self._parts.open_envoys()

    def _service_serves(self, service: str, seconds: float) -> None:
        self._report(Progress(step=service, state=StepState.DONE, seconds=seconds))

    def _find_addresses(self) -> Addresses:
        facts, options = self._parts.facts, self._parts.options
        target = f"{options.edge_host}:{facts.ports['edge']}" if options.edge else None
        return Addresses(
            edge_url=f"http://{target}" if target else None,
            edge_target=target,
            services={service: f"127.0.0.1:{facts.ports[service]}" for service in SERVICES},
            admin_key_path=str(self._data.bootstrap_key),
            data_dir=str(self._data.root),
        )

    def _write_record(self) -> None:
        if self._addresses is None:
            return
        children = tuple(
            ChildRecord(
                name=child.spec.name,
                state=child.state,
                pid=child.process.pid if child.process is not None else 0,
                port=child.spec.port,
                started=child.started,
                restarts=child.restarts,
            )
            for child in self._supervisor.children.values()
        )
        write_record(
            self._data,
            MeshRecord(
                started=self._started,
                single_process=self._together is not None,
                version=version("comitia"),
                mtls=self._parts.options.mtls,
                ready=self._ready,
                addresses=self._addresses,
                children=children,
            ),
        )


def _settle_down() -> None:
    """Gives back the memory that only the start needed.

    What is left stays: as in `meshkit.process`, calls of a single process need not wait for collections of it.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


async def up(options: UpOptions, report: Report, *, command: ServiceCommand = service_command) -> Mesh:
    """Starts a mesh in this process and returns when all of it is healthy.

    Args:
        report: told each step; a display.
        command: gives the program of each service; tests put their own.
    Returns: the mesh; await its `wait`, then its `stop`.
    Raises: LauncherError: a port is taken, a wheel is missing, a child died or was not healthy in time, or a mesh runs
        on this data already. Nothing is left running.
    Concurrency: from the main thread only, because children end with the thread that started them.
    """
    mesh = Mesh(find_data_dir(options.data_dir, user_environment(options)), options, report, command)
    await mesh.start()
    return mesh


async def run(
    options: UpOptions, report: Report, ready: Callable[[Addresses], None], *, command: ServiceCommand = service_command
) -> None:
    """Runs a mesh until SIGINT, SIGTERM or SIGHUP, then stops it in order; with `detach`, leaves it in the background.

    Args:
        ready: told the addresses when all is healthy.
    Raises: LauncherError: see `up`.
    """
    if options.detach:
        ready(await background.start(options, report))
        return
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    told_to_end = False

    def end() -> None:
        nonlocal told_to_end
        if not told_to_end:  # a second one must not interrupt the orderly stop
            told_to_end = True
            task.cancel()

    for number in _END_SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        mesh = await up(options, report, command=command)
        ready(mesh.addresses)
        try:
            await mesh.wait()
        finally:
            await mesh.stop()
    except asyncio.CancelledError:
        if not told_to_end:
            raise
    finally:
        for number in _END_SIGNALS:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)
