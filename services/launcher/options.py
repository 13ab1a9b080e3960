"""What a caller of the launcher chooses, and what it is told while it waits."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from services.launcher.services import REPLICATED

_PATHS: Final = ("data_dir", "archive_wal")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """How to start a mesh."""

    #: Everything the mesh keeps. None: `COMITIA_DATA_DIR`, else `~/.comitia`.
    data_dir: Path | None = None
    #: All seven services on one loop in the launcher's own process.
    single_process: bool = False
    #: Leave the mesh running in the background and return when it is healthy.
    detach: bool = False
    #: Port of the edge. None: the remembered one, else 7400; 0: any free one. Taken: a `LauncherError`.
    edge_port: int | None = None
    #: Address on which the edge listens.
    edge_host: str = "127.0.0.1"
    #: Choose every port that is not remembered at random; for tests that share a machine.
    random_ports: bool = False
    #: Run the local model beside the mesh. None: when its wheels are installed.
    local_model: bool | None = None
    #: Services and edge prove themselves to each other by certificates that the launcher makes and renews. Without it
    #: they speak plain text, on the loopback alone.
    mtls: bool = False
    #: Folder that receives the write-ahead log of the embedded Postgres while the mesh runs, see `backups/wal.py`.
    archive_wal: Path | None = None
    #: Services call each other through an Envoy of their own instead of directly; needs `mtls`.
    east_west: bool = False
    #: Processes of the orchestrator, 1 to 8. They share the runs between them; the edge sends calls to all.
    orchestrators: int = 1
    #: Processes of each other service but memory, 1 to 8. One of them may die, or be replaced, and no call fails.
    replicas: int = 1
    #: Start Envoy. Without it the services are reached at their own ports only.
    edge: bool = True
    #: Longest wait for one child to become healthy.
    healthy_seconds: float = 60.0
    #: Longest wait before a child that died again and again is started once more.
    most_restart_wait_seconds: float = 30.0
    #: Settings handed to the services on top of the launcher's own environment; they win.
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def counts(self) -> dict[str, int]:
        """How many processes each service has, where it may have several."""
        return {**dict.fromkeys(REPLICATED, self.replicas), "orchestrator": self.orchestrators}


class StepState(StrEnum):
    """Where a step of starting or stopping stands."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One change of one step, for a display."""

    #: `postgres`, `nats`, `databases`, `migrations`, a service, `local-model`, `edge`, `east-west`, `mesh`.
    step: str
    state: StepState
    #: Since the step started; 0 at its start.
    seconds: float = 0.0
    #: What a person may want to know beside it, such as the address; often empty.
    detail: str = ""


#: Told each change of each step.
Report = Callable[[Progress], None]


@contextmanager
def reported(step: str, report: Report) -> Iterator[None]:
    """Tells the beginning and the end of what the block does."""
    began = time.monotonic()
    report(Progress(step=step, state=StepState.STARTED))
    try:
        yield
    except BaseException:
        report(Progress(step=step, state=StepState.FAILED, seconds=time.monotonic() - began))
        raise
    report(Progress(step=step, state=StepState.DONE, seconds=time.monotonic() - began))


def options_to_json(options: UpOptions) -> str:
    """Writes options for a launcher in the background."""
    paths = {name: str(path) if (path := getattr(options, name)) else None for name in _PATHS}
    return json.dumps({**asdict(options), **paths})


def options_from_json(text: str) -> UpOptions:
    """Reads what `options_to_json` wrote."""
    found = json.loads(text)
    for name in _PATHS:
        found[name] = Path(found[name]) if found[name] else None
    return UpOptions(**found)
