"""A real Envoy in front of servers inside the test."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.launcher.edge import (
    Address,
    EdgeSettings,
    MeshTlsFiles,
    render_edge,
    render_mesh_secrets,
    render_serving_secret,
)
from services.launcher.edge_tokens import TokenCheck

_LIMIT_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEdge:
    """An Envoy that serves."""

    address: str
    admin: str
    log: Path

    @property
    def url(self) -> str:
        """Base of REST calls."""
        return f"http://{self.address}"


def envoy() -> str:
    """Path of the Envoy of this environment."""
    return str(Path(sys.executable).with_name("envoy"))


@asynccontextmanager
async def running_edge(settings: EdgeSettings, folder: Path) -> AsyncGenerator[RunningEdge]:
    """Runs Envoy with these settings until the block ends. Ports 0 are chosen by the kernel."""
    if settings.mesh_tls is not None:
        write_mesh_secrets(settings.mesh_tls)
    if settings.tls is not None:
        settings.tls.secret.write_text(render_serving_secret(settings.tls))
    async with running_envoy("edge", render_edge(settings), folder) as (address, admin):
        yield RunningEdge(address=address, admin=admin, log=settings.access_log or folder / "edge.log")


@asynccontextmanager
async def running_envoy(listener: str, configuration: str, folder: Path) -> AsyncGenerator[tuple[str, str]]:
    """Runs Envoy until the block ends; gives the addresses of its listener and of its admin page."""
    config, ports, log = (folder / f"{listener}.{kind}" for kind in ("json", "admin", "log"))
    config.write_text(configuration)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(envoy(), "-c", str(config), "--admin-address-path", str(ports), "--concurrency", "1"),
            *(
                "--use-dynamic-base-id",
                "--file-flush-interval-msec",
                "50",
                "-l",
                os.environ.get("COMITIA_TEST_ENVOY_LOG", "warning"),
            ),
            stdout=output,
            stderr=output,
        )
        try:
            admin = await _admin_address(process, ports, log)
            yield await _listener(admin, listener), admin
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def write_mesh_secrets(files: MeshTlsFiles) -> None:
    """Writes what leads Envoy to the certificates of the mesh."""
    files.secrets.mkdir(exist_ok=True)
    for name, text in render_mesh_secrets(files).items():
        (files.secrets / name).write_text(text)


def edge_settings(services: dict[str, str], *, jwks: Path, log: Path, **more: object) -> EdgeSettings:
    """Makes the settings of an edge on free ports in front of these services; those not named answer to nobody.

    Args:
        jwks: public keys of access tokens as they are now.
    """
    token_check = log.parent / "token_check" / "token_check.json"
    TokenCheck(jwks, token_check).write()
    names = ("gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost")
    return EdgeSettings(
        listen=Address("127.0.0.1", 0),
        admin=Address("127.0.0.1", 0),
        services={name: [Address.parse(services.get(name, "127.0.0.1:1"))] for name in names},
        token_check=token_check,
        access_log=log,
        **more,  # type: ignore[arg-type]
    )


async def _admin_address(process: asyncio.subprocess.Process, ports: Path, log: Path) -> str:
    async with asyncio.timeout(_LIMIT_SECONDS):
        while not (address := _text(ports)):
            if process.returncode is not None:
                raise RuntimeError(f"envoy ended with {process.returncode}: {_text(log)[-2000:]}")
            await asyncio.sleep(0.02)
    return address


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def _listener(admin: str, name: str) -> str:
    """Waits until a listener takes calls; gives its address."""
    async with asyncio.timeout(_LIMIT_SECONDS):
        while "LIVE" not in await asked(admin, "/ready"):  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.02)
        line = ""
        while not line:
            rows = (await asked(admin, "/listeners")).splitlines()
            line = next((row for row in rows if row.startswith(f"{name}::")), "")
    return line.removeprefix(f"{name}::")


async def asked(address: str, path: str) -> str:
    """Asks an admin page."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()
