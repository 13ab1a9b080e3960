"""Measures who may come in: admitting a call with a known token and with a new one, and what the edge asks for a key.

One process; the gateway is asked over the loopback, with its Postgres, as the edge asks it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from grpc.aio import insecure_channel

from comitia.gateway.v1 import guard_feed_service_pb2 as feed_pb
from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.guard_table import GUARDS
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.grpc.guard import Admission
from services.meshkit.grpc.identity import TokenSigner, TokenVerifier, WorkloadVerifier
from services.meshkit.grpc.signed_token import KeySetFile
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.bench.guard_audit import database
from tests.support.gateway import running_gateway

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
KNOWN: Final = 50_000 if SHORT else 300_000
NEW: Final = 500 if SHORT else 3_000
CHECKS: Final = 500 if SHORT else 3_000
#: Subjects that were revoked of late, in the tenant that calls.
REVOKED: Final = 10_000
KNOWN_GOAL: Final = 30.0
NEW_GOAL: Final = 400.0
EDGE_GOAL: Final = 3.0
_METHOD: Final = "/comitia.tools.v1.ToolService/InvokeTool"
_RUN: Final = 100

Figure = Callable[..., None]


async def measure(figure: Figure) -> None:
    """Measures all parts."""
    with tempfile.TemporaryDirectory() as folder:
        _admissions(figure, Path(folder))
    await _edge(figure)


def _admissions(figure: Figure, folder: Path) -> None:
    clock = SystemClock()
    keys = MeshKeys.make(folder, clock=clock)
    tenant = TenantId(UUID(int=1))
    admission = Admission(
        GUARDS,
        tokens=TokenVerifier(KeySetFile(keys.jwks_path, clock=clock), clock=clock),
        workloads=WorkloadVerifier(KeySetFile(keys.workload_jwks_path, clock=clock), clock=clock),
        standing=_a_feed(tenant),
    )
    signer = TokenSigner(keys.access_key, clock=clock)
    workload = keys.workload("orchestrator").assertion()
    calls = [_metadata(signer, tenant, number, workload) for number in range(1_000)]
    for metadata in calls:
        admission.authorize(_METHOD, admission.identify(_METHOD, metadata))
    runs: list[float] = []
    for run in range(KNOWN // _RUN):
        began = time.perf_counter()
        for call in range(_RUN):
            admission.authorize(_METHOD, admission.identify(_METHOD, calls[(run * _RUN + call) % len(calls)]))
        runs.append((time.perf_counter() - began) / _RUN * 1e6)
    figure(
        "identity_known_token",
        statistics.median(runs),
        "us",
        better="lower",
        goal=KNOWN_GOAL,
        note=f"token and assertion of a service, permission, {REVOKED} revoked subjects; 1 of 1000 callers in turn",
    )
    fresh = [_metadata(signer, tenant, 10_000 + number, workload) for number in range(NEW)]
    times: list[float] = []
    for metadata in fresh:
        began = time.perf_counter()
        admission.authorize(_METHOD, admission.identify(_METHOD, metadata))
        times.append((time.perf_counter() - began) * 1e6)
    figure("identity_new_token", statistics.median(times), "us", better="lower", goal=NEW_GOAL, note="Ed25519 included")


def _a_feed(tenant: TenantId) -> GuardFeed:
    feed = GuardFeed(clock=SystemClock())
    ids = SystemIds()
    revoked: list[feed_pb.RevokedSubject] = []
    for _ in range(REVOKED):
        one = feed_pb.RevokedSubject(tenant_id=from_uuid("tenant", tenant), subject=ids.new("key"))
        one.revoke_time.GetCurrentTime()
        revoked.append(one)
    feed.take(feed_pb.WatchGuardResponse(version=1, reset=True, complete=True, revoked=revoked))
    return feed


def _metadata(signer: TokenSigner, tenant: TenantId, number: int, workload: str) -> tuple[tuple[str, str], ...]:
    principal = Principal(tenant=tenant, subject=f"key_{number}", roles=frozenset({Role.TENANT_USER}))
    token = signer.sign(principal, life=timedelta(minutes=15), token_id=str(number))
    return (
        ("user-agent", "bench"),
        ("authorization", f"Bearer {token}"),
        ("comitia-workload", workload),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    )


async def _edge(figure: Figure) -> None:
    """Times the question that the edge asks for a call with an API key."""
    again = await _asked(CHECKS, key_cache_seconds=5.0)
    # A gateway that remembers no key looks at each as if it were new.
    first = await _asked(CHECKS, key_cache_seconds=0.0)
    figure(
        "ext_authz_known_key_p50", again, "ms", better="lower", goal=EDGE_GOAL, note="over the loopback, one at a time"
    )
    figure(
        "ext_authz_new_key_p50",
        first,
        "ms",
        better="lower",
        goal=EDGE_GOAL,
        note="looked up in Postgres, verified and exchanged; once in 5 s for each key",
    )


async def _asked(checks: int, *, key_cache_seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            database() as urls,
            running_gateway(
                partial(_given, urls), Path(folder), key_cache_seconds=key_cache_seconds, rate_factor=100.0
            ) as gateway,
            insecure_channel(gateway.target) as channel,
        ):
            texts = await _some_keys(channel, gateway.admin_key)
            # The package xds-protos brings no types.
            check: Any = external_auth_pb2_grpc.AuthorizationStub(channel).Check  # type: ignore[no-untyped-call]
            await _checks(check, texts)
            return await _checks(check, [texts[number % len(texts)] for number in range(checks)])


async def _given(urls: Any, _service: str) -> Any:
    return urls


async def _some_keys(channel: Any, admin_key: str) -> list[str]:
    identity: Any = IdentityServiceStub(channel)
    answer = await identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=admin_key))
    admin = (("authorization", f"Bearer {answer.access_token}"),)
    wish = pb.CreateApiKeyRequest(display_name="bench", roles=[identity_pb2.ROLE_TENANT_USER])
    texts: list[str] = []
    while len(texts) < 50:
        texts.append((await identity.CreateApiKey(wish, metadata=admin)).secret)
    return texts


async def _checks(check: Any, texts: list[str]) -> float:
    """Gives the median in milliseconds."""
    pb_any: Any = external_auth_pb2
    times: list[float] = []
    for text in texts:
        request = pb_any.CheckRequest()
        request.attributes.request.http.headers["x-api-key"] = text
        began = time.perf_counter()
        answer = await check(request)
        times.append((time.perf_counter() - began) * 1e3)
        assert answer.HasField("ok_response")
    return statistics.median(times)
