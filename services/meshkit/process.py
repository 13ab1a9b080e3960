"""The life of one service process: read settings, build, serve, drain on SIGTERM."""

import asyncio
import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final, NoReturn, Protocol, TypeVar, cast

import uvloop

from services.meshkit import settings_reader
from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.ids import IdSource, SystemIds
from services.meshkit.grpc.server import Server, serve
from services.meshkit.settings import ServiceSettings
from services.meshkit.settings_reader import WrongSettings, variable_of
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.setup import setup
from services.meshkit.telemetry.tracing import end_tracing

#: Something broke while serving.
EXIT_CRASHED: Final = 1
#: The settings are wrong.
EXIT_SETTINGS: Final = 2
#: The service could not start: a port is taken, a dependency does not answer.
EXIT_START: Final = 3

#: New objects before the youngest are looked through for rings that nobody holds: some 5 MB at most.
_OBJECTS_BEFORE_A_LOOK: Final = 20_000
_LOOKS_BEFORE_A_DEEPER_ONE: Final = (20, 50)

S = TypeVar("S", bound=ServiceSettings)
S_contra = TypeVar("S_contra", bound=ServiceSettings, contravariant=True)

log = logger(__name__)


class Wiring(Protocol[S_contra]):
    """Builds everything a service needs and gives the server that is to run."""

    def __call__(self, settings: S_contra, /, *, clock: Clock, ids: IdSource) -> AbstractAsyncContextManager[Server]:
        """Opens what the service needs; leaving the block closes it."""
        ...


def run_service(name: str, settings_type: type[S], wiring: Wiring[S]) -> NoReturn:
    """Runs a service until SIGTERM or SIGINT, then exits. This is all that its `__main__.py` does.

    It stops in this order: health says NOT_SERVING and callers go elsewhere (after SIGINT nobody waits for them); no
    new call is taken and running ones end; background work ends; then what the wiring opened closes, last opened first,
    so that work is handed over, what waits is written, and connections close.

    Exits with 0 after a drain; with 1 when something broke while serving, 2 when the settings are wrong, 3 when it
    could not start, each after one sentence on standard error.
    """
    settings = read_settings(name, settings_type)
    setup(name, settings)
    if settings.failpoints:
        _arm(name, settings.failpoints)
    code = uvloop.run(_serve_until_told(name, settings, wiring))
    end_tracing()
    # All is closed. Without this the interpreter looks at every object once more before it goes: half a second.
    gc.freeze()
    sys.exit(code)


def read_settings(name: str, settings_type: type[S]) -> S:
    """Reads settings, or exits with one sentence that names every wrong variable."""
    try:
        return settings_reader.read_settings(settings_type)
    except WrongSettings as error:
        _say(f"{name} cannot start: {error}")
        sys.exit(EXIT_SETTINGS)


def _arm(name: str, description: str) -> None:
    """Makes this a process that fails on purpose. Loaded here only, so that production has nothing that does."""
    try:
        from services.meshkit.testing import failpoints

        failpoints.arm(description)
    except (Invalid, ImportError) as error:
        _say(f"{name} cannot start: {error}")
        sys.exit(EXIT_SETTINGS)


def collect_rarely() -> None:
    """Has the interpreter look for rings of dead objects as a service does that is ready."""
    # What was imported stays; a full collection need not look through it again while calls wait.
    gc.freeze()
    # Where many small objects live for long, the usual 700 have a tenth of all time spent on looking for rings.
    gc.set_threshold(_OBJECTS_BEFORE_A_LOOK, *_LOOKS_BEFORE_A_DEEPER_ONE)


async def _serve_until_told(name: str, settings: S, wiring: Wiring[S]) -> int:
    told, at_once = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _tell, told, at_once)
    started = False
    try:
        async with wiring(settings, clock=SystemClock(), ids=SystemIds()) as server, serve(server) as serving:
            started = True
            collect_rarely()
            # Still listened to while callers notice: whoever stops everything then need not wait for that.
            serving.drain.at_once = at_once
            await told.wait()
    except (MeshError, OSError, ExceptionGroup) as error:
        log.error("the service ends", exc_info=error)
        for cause in _causes(error):
            _say(f"{name} {'broke' if started else 'cannot start'}: {cause}{_setting_of(settings, cause)}")
        return EXIT_CRASHED if started else EXIT_START
    return 0


def _setting_of(settings: ServiceSettings, cause: Exception) -> str:
    """Names the variables whose files the sentence is about."""
    named = [name for name, path in settings.given_files().items() if str(path) in str(cause)]
    return f" ({', '.join(variable_of(type(settings), name) for name in named)})" if named else ""


def _tell(*events: asyncio.Event) -> None:
    for event in events:
        event.set()


def _causes(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for part in cast(ExceptionGroup[Exception], error).exceptions:
            yield from _causes(part)
    else:
        yield error


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
