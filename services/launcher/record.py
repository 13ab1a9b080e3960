"""`mesh.json`: what runs now, written by the launcher at each change and read by anyone who asks for the status."""

import json
from dataclasses import asdict, dataclass

from services.launcher.layout import DataDir, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a healthy mesh is reached."""

    #: Base address of REST, SSE and gRPC-Web; None without an edge.
    edge_url: str | None
    #: `host:port` for gRPC at the edge.
    edge_target: str | None
    #: `host:port` of each service itself.
    services: dict[str, str]
    #: The first administrator's API key, mode 0600.
    admin_key_path: str
    data_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRecord:
    """One child as its launcher saw it last."""

    name: str
    state: str
    pid: int
    port: int | None
    #: Seconds since 1970.
    started: float
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshRecord:
    """A launcher and its children."""

    #: Seconds since 1970.
    started: float
    single_process: bool
    #: Release of its code; empty where an older launcher did not say it.
    version: str
    #: Its services speak TLS with each other.
    mtls: bool
    ready: bool
    addresses: Addresses
    children: tuple[ChildRecord, ...]


def write_record(data: DataDir, record: MeshRecord) -> None:
    """Replaces the record. Nobody needs it after a power cut, so it is not forced to the disk."""
    write_private(data.mesh, json.dumps(asdict(record)).encode(), durable=False)


def read_record(data: DataDir) -> MeshRecord | None:
    """Reads the record of the last launcher; None before the first."""
    try:
        found = json.loads(data.mesh.read_bytes())
    except FileNotFoundError:
        return None
    return MeshRecord(
        started=found["started"],
        single_process=found["single_process"],
        version=found.get("version", ""),
        mtls=found.get("mtls", False),  # older launchers did not say it, and spoke plain text
        ready=found["ready"],
        addresses=Addresses(**found["addresses"]),
        children=tuple(ChildRecord(**child) for child in found["children"]),
    )
