"""A gateway that runs inside the test: real Postgres, real gRPC, keys of its own."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from pydantic import SecretStr

from services.gateway.settings import GatewaySettings
from services.gateway.wiring import gateway
from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.server import Serving, serve
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.testing.mesh_keys import MeshKeys

MakeDatabase = Callable[[str], Awaitable[DatabaseUrls]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that serves."""

    target: str
    keys: MeshKeys
    #: The bootstrap key: tenant `local`, roles admin and operator.
    admin_key: str
    urls: DatabaseUrls
    serving: Serving


def new_key_text() -> str:
    """Makes the text of a key as the launcher does."""
    key_id = SystemIds().new("key").removeprefix("key_")
    return f"ck_{key_id}_{token_hex(32)}"


@asynccontextmanager
async def running_gateway(
    make_migrated: MakeDatabase,
    folder: Path,
    *,
    clock: Clock | None = None,
    targets: dict[str, str] | None = None,
    key_cache_seconds: float = 5.0,
    **others: object,
) -> AsyncGenerator[RunningGateway]:
    """Runs a gateway on a fresh database.

    Args:
        make_migrated: makes it, with its tables.
        targets: settings such as `cost_target`; what is not named answers to nobody.
        others: further settings by name.
    """
    moment = SystemClock() if clock is None else clock
    urls = await make_migrated("gateway")
    keys = MeshKeys.make(folder, clock=moment)
    admin_key = new_key_text()
    (folder / "admin.key").write_text(admin_key + "\n")
    settings = gateway_settings(
        folder, keys, urls, targets={f"{name}_target": "127.0.0.1:1" for name in NEIGHBOURS} | (targets or {})
    ).model_copy(update={"key_cache_seconds": key_cache_seconds, **others})
    async with gateway(settings, clock=moment, ids=SystemIds()) as server, serve(server) as serving:
        yield RunningGateway(
            target=f"127.0.0.1:{serving.port}", keys=keys, admin_key=admin_key, urls=urls, serving=serving
        )


NEIGHBOURS = ("gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost")


def gateway_settings(
    folder: Path, keys: MeshKeys, urls: DatabaseUrls, *, targets: dict[str, str] | None = None
) -> GatewaySettings:
    """Makes the settings of a gateway whose keys lie in `folder`."""
    create_kek_file(folder / "kek")
    if not (folder / "audit.jwk").exists():
        SigningKey.generate("audit-1").write(folder / "audit.jwk")
    return GatewaySettings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "database_url": SecretStr(urls.app),
            "maintenance_database_url": SecretStr(urls.maintenance),
            "jwks_path": keys.jwks_path,
            "workload_key_path": keys.key_path("gateway"),
            "workload_jwks_path": keys.workload_jwks_path,
            "guard_path": keys.guard_path,
            "kek_path": folder / "kek",
            "signing_key_path": keys.key_path("access-1"),
            "bootstrap_key_path": folder / "admin.key",
            "audit_key_path": folder / "audit.jwk",
            "audit_store": str(folder / "audit"),
            "drain_seconds": 1.0,
            **(targets or {}),
        }
    )
