"""A real gateway behind certificates: a service follows its feed, is probed by it, and a stranger gets nothing."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest

from comitia.gateway.v1.status_service_pb2 import (
    SERVICE_HEALTH_NOT_SERVING,
    SERVICE_HEALTH_SERVING,
    SERVICE_HEALTH_UNREACHABLE,
    GetMeshStatusRequest,
)
from comitia.gateway.v1.status_service_pb2_grpc import StatusServiceStub
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.tls import MeshTls, TlsFiles
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.follow import FollowGuard, remote_source
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import MakeDatabase, free_port
from tests.support.authority import Authority
from tests.support.gateway import running_gateway

CLOCK = SystemClock()


def signer(keys: MeshKeys, service: str, files: TlsFiles, target: str) -> WorkloadSigner:
    tls = MeshTls(files, service=service, neighbours={target: "gateway"}, clock=CLOCK)
    return WorkloadSigner(service, keys.workload_keys[service], clock=CLOCK, tls=tls)


async def test_a_gateway_with_a_certificate_serves_those_who_show_one(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    authority = Authority()
    files = authority.equips("gateway", tmp_path / "gateway")
    target = f"127.0.0.1:{free_port()}"
    certificate: dict[str, Any] = {
        "listen": target,
        "tls_cert_path": files.certificate,
        "tls_key_path": files.key,
        "tls_ca_path": files.authorities,
        "gateway_target": target,
    }
    async with running_gateway(make_migrated, tmp_path, **certificate) as gateway:
        own = authority.equips("orchestrator", tmp_path / "orchestrator")
        identity = signer(gateway.keys, "orchestrator", own, gateway.target)
        async with channel(gateway.target, identity=identity) as opened:
            feed = GuardFeed(clock=CLOCK)
            following = asyncio.create_task(follow(feed, opened)())
            async with asyncio.timeout(10):
                while feed.version == 0:  # noqa: ASYNC110  # the feed has no bell for a first word
                    await asyncio.sleep(0.02)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            # The gateway asks all seven how they are, itself among them, by the same certificates.
            status = await StatusServiceStub(opened).GetMeshStatus(GetMeshStatusRequest())
            health = {service.name: service.health for service in status.services}
            assert health["gateway"] in (SERVICE_HEALTH_SERVING, SERVICE_HEALTH_NOT_SERVING)
            assert health["cost"] == SERVICE_HEALTH_UNREACHABLE
        async with grpc.aio.insecure_channel(gateway.target) as plain:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await StatusServiceStub(plain).GetMeshStatus(GetMeshStatusRequest(), timeout=2)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def follow(feed: GuardFeed, opened: grpc.aio.Channel) -> FollowGuard:
    return FollowGuard(feed, remote_source(opened), clock=CLOCK, dice=Random(1))
