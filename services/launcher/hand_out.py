"""Makes the keys and databases of a mesh of containers, and hands each service its own part and nothing else.

    python -m services.launcher.hand_out --data-dir /var/lib/comitia --to /handed

It reads `COMITIA_POSTGRES_URL` (an administrator) and `COMITIA_NATS_URL`, and where they are given
`COMITIA_DATABASE_PREFIX`, `COMITIA_MILVUS_URL`, `COMITIA_LOCAL_MODEL_URL` and `COMITIA_OTLP_ENDPOINT`.

Each service gets a directory below `--to`, which its container sees as `/run/comitia` (`COMITIA_SECRETS_DIR`): its
settings as files, and the keys that these name. It may be run again at any time: what exists stays, new migrations
are made.
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.launcher import databases
from services.launcher.edge_tokens import TokenCheck
from services.launcher.errors import LauncherError
from services.launcher.keys import ensure_keys, find_databases, key_files
from services.launcher.layout import DataDir, prepare, write_private
from services.launcher.mesh_databases import MeshDatabases
from services.launcher.ports import DOORS, PREFERRED, metrics_port_name
from services.launcher.services import SERVICES

#: Where a container sees what was handed to its service, what it keeps, and the key set that all share.
HANDED: Final = Path("/run/comitia")
KEPT: Final = Path("/var/lib/comitia")
KEY_SET: Final = Path("/run/comitia-keys/jwks.json")

_ANYWHERE: Final = "0.0.0.0"  # noqa: S104  # who may reach it, the network of containers says


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a mesh of containers is told of the servers beside it."""

    databases: MeshDatabases
    nats_url: str = field(repr=False)
    milvus_url: str | None = field(default=None, repr=False)
    local_model_url: str | None = None
    otlp_endpoint: str | None = None
    #: Networks in which the edge runs, CIDR.
    edge_networks: tuple[str, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    """Runs from the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.launcher.hand_out", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where keys and passwords are kept")
    parser.add_argument("--to", type=Path, required=True, help="directory with one for each service in it")
    parser.add_argument("--edge-network", action="append", default=[], help="network of the edge, CIDR")
    parser.add_argument("--wait-seconds", type=float, default=60.0, help="wait this long for Postgres; default 60")
    chosen = parser.parse_args(arguments)
    missing = [name for name in ("COMITIA_POSTGRES_URL", "COMITIA_NATS_URL") if not os.environ.get(name)]
    if missing:
        print(f"{missing[0]} is not set; give the address of that server", file=sys.stderr)
        return 2
    try:
        data = DataDir(chosen.data_dir)
        prepare(data)
        ensure_keys(data)
        around = Surroundings(
            databases=find_databases(data, os.environ["COMITIA_POSTGRES_URL"], os.environ),
            nats_url=os.environ["COMITIA_NATS_URL"],
            milvus_url=os.environ.get("COMITIA_MILVUS_URL") or None,
            local_model_url=os.environ.get("COMITIA_LOCAL_MODEL_URL") or None,
            otlp_endpoint=os.environ.get("COMITIA_OTLP_ENDPOINT") or None,
            edge_networks=tuple(chosen.edge_network),
        )
        asyncio.run(_make_databases(around.databases, chosen.wait_seconds))
        hand_out(data, chosen.to, around)
    except (LauncherError, OSError) as failure:
        print(failure.sentence if isinstance(failure, LauncherError) else failure, file=sys.stderr)
        return 1
    return 0


def hand_out(data: DataDir, to: Path, around: Surroundings) -> None:
    """Writes what each service, the edge and the key set of all begin with."""
    for service in SERVICES:
        for name, value in _settings(service, around).items():
            write_private(to / service / f"comitia_{service}_{name}", value.encode())
        for name, source in {**key_files(service, data), data.workload_jwks.name: data.workload_jwks}.items():
            write_private(to / service / name, source.read_bytes())
    shared = to / "keyset" / KEY_SET.name
    if not shared.exists():
        # From then on it is the gateway's, which puts new keys into it.
        write_private(shared, data.jwks.read_bytes())
    TokenCheck(shared, to / "edge" / data.token_check.name).write()


def _settings(service: str, around: Surroundings) -> dict[str, str]:
    """Resolves what a container of a service is told, by names of settings."""
    told = {
        "database_url": around.databases.url(service, "app"),
        "maintenance_database_url": around.databases.url(service, "maintenance"),
        "listen": f"{_ANYWHERE}:{PREFERRED[service]}",
        "metrics_listen": f"{_ANYWHERE}:{PREFERRED[metrics_port_name(service)]}",
        "nats_url": around.nats_url,
        "jwks_path": str(KEY_SET),
        "workload_key_path": str(HANDED / "workload.jwk"),
        "workload_jwks_path": str(HANDED / "workload_jwks.json"),
        "kek_path": str(HANDED / "kek"),
        "guard_path": str(KEPT / "guard"),
        **{f"{neighbour}_target": f"{neighbour}:{PREFERRED[neighbour]}" for neighbour in SERVICES},
    }
    if around.edge_networks:
        told["edge_networks"] = json.dumps(around.edge_networks)
    if around.otlp_endpoint:
        told["otlp_endpoint"] = around.otlp_endpoint
    return told | _own_settings(service, around)


def _own_settings(service: str, around: Surroundings) -> dict[str, str]:
    if service == "gateway":
        return {
            "signing_key_path": str(HANDED / "signing.jwk"),
            "bootstrap_key_path": str(HANDED / "admin.key"),
            "audit_key_path": str(HANDED / "audit.jwk"),
            "audit_jwks_path": str(HANDED / "audit_jwks.json"),
            "audit_store": str(KEPT / "audit"),
        }
    if service == "orchestrator":
        return {
            "object_store": str(KEPT / "objects"),
            "peer_address": f"orchestrator:{PREFERRED['orchestrator']}",
        }
    if service == "inference":
        told = {"doors_listen": f"{_ANYWHERE}:{PREFERRED[DOORS]}", "registry_path": str(KEPT / "registry")}
        return told | ({"local_model_url": around.local_model_url} if around.local_model_url else {})
    if service == "memory":
        return {"data_dir": str(KEPT)} | ({"milvus_url": around.milvus_url} if around.milvus_url else {})
    return {}


async def _make_databases(made: MeshDatabases, wait_seconds: float) -> None:
    await databases.wait_for_server(made.admin_url, wait_seconds)
    await databases.make_databases(made, lambda service, _: print(f"{service} is ready", flush=True))


if __name__ == "__main__":
    sys.exit(main())
