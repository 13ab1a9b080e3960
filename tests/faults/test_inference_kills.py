"""Kill -9 of inference at each failpoint of a call: one answer, and a ledger that equals the provider's meter."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from comitia.cost.v1 import cost_pb2
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.inference.domain.errors import CallInProgress
from services.meshkit.core.clock import SystemClock
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import MakeDatabase, free_port, make_database, nats_server, postgres
from tests.integration.inference.conftest import InferenceMesh, a_request, running_cost
from tests.support.fake_policy import FakePolicy, fake_policy, keys_in
from tests.support.fault_rows import note
from tests.support.held_calls import held_calls
from tests.support.providers.fake import KEY, FakeProvider, fake_provider

__all__ = ["make_database", "nats_server", "postgres"]

pytestmark = pytest.mark.faults

POINTS = ("after_reserve", "after_answer", "before_settle", "after_settle", "before_record", "after_record")
#: Points past the provider's answer but before its record: the call is made again, and both are owed. Settling and
#: recording go on side by side, so after the settlement the record may be there or not.
MADE_TWICE = ("after_answer", "before_settle", "before_record")
#: Points at which the hold of the first try is certainly left to be assumed.
NEVER_SETTLED = ("after_reserve", "after_answer", "before_settle")


class Process:
    """Inference as a process of its own, started again with or without failpoints."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._running: asyncio.subprocess.Process | None = None
        self.port = 0
        #: Of the process that was started last.
        self.pid = 0

    async def ended(self) -> None:
        """Waits until it has died."""
        assert self._running is not None
        await self._running.wait()

    @asynccontextmanager
    async def running(self, failpoints: str = "") -> AsyncIterator[grpc.aio.Channel]:
        if failpoints:
            note("killed at a failpoint", "inference")
        self.port = free_port()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.inference",
            env={
                **self._environment,
                "COMITIA_INFERENCE_LISTEN": f"127.0.0.1:{self.port}",
                "COMITIA_INFERENCE_FAILPOINTS": failpoints,
            },
            stdout=asyncio.subprocess.DEVNULL,
        )
        self._running = process
        self.pid = process.pid
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), 30)
                yield channel
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def environment_of(
    urls: DatabaseUrls, keys: MeshKeys, folder: Path, law: FakePolicy, provider: FakeProvider, cost_target: str
) -> dict[str, str]:
    settings = {
        "database_url": urls.app,
        "maintenance_database_url": urls.maintenance,
        "jwks_path": str(keys.jwks_path),
        "workload_key_path": str(keys.key_path("inference")),
        "workload_jwks_path": str(keys.workload_jwks_path),
        "guard_wait_seconds": "0",
        "guard_path": str(keys.guard_path),
        "kek_path": str(folder / "kek"),
        "policy_target": law.target,
        "cost_target": cost_target,
        "openai_api_key": KEY,
        "openai_base_url": provider.openai_base_url,
        "sweep_seconds": "0.2",
        "claim_seconds": "1",
    }
    named = {f"COMITIA_INFERENCE_{name.upper()}": value for name, value in settings.items()}
    return {"PATH": "/usr/bin:/bin", **named}


@pytest.mark.parametrize("point", POINTS)
async def test_a_killed_call_is_answered_once_and_paid_for_as_metered(
    make_database: MakeDatabase, tmp_path: Path, point: str
) -> None:
    keys = keys_in(tmp_path / "keys", SystemClock())
    create_kek_file(tmp_path / "kek")
    urls = await make_database("inference")
    await migrate("services.inference", urls.migrator)
    async with (
        fake_provider() as provider,
        fake_policy(keys) as law,
        running_cost(make_database, keys, tmp_path) as money,
        held_calls(money.url) as ledger,
    ):
        provider.ledger = ledger
        process = Process(environment_of(urls, keys, tmp_path, law, provider, money.target))
        principal = keys.principal()

        async def ask(channel: grpc.aio.Channel) -> Any:
            """Asks, and comes back as long as the killed process may still be making the call."""
            stub: Any = InferenceServiceStub(channel)
            request = a_request(path="rounds/1/Athena")
            while True:
                try:
                    return (await stub.Generate(request, metadata=call_metadata(principal), timeout=20)).generation
                except grpc.aio.AioRpcError as error:
                    refusal = remote_error(error)
                    if refusal.reason != CallInProgress.reason or refusal.retry_after is None:
                        raise
                    await asyncio.sleep(refusal.retry_after.total_seconds())

        async with process.running(f"inference.{point}=kill") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as died:
                await ask(channel)
            assert died.value.code() is grpc.StatusCode.UNAVAILABLE
        async with process.running() as channel:
            answer = await ask(channel)
            again = await ask(channel)
            mesh = InferenceMesh(
                target="",
                keys=keys,
                urls=urls,
                principal=principal,
                law=law,
                provider=provider,
                money=money,
                channel=channel,
            )
            charges = await mesh.charges()
            budget: cost_pb2.Budget = await mesh.budget()
        made = len(provider.meter.confirmed)
        assert provider.meter.unheld == []
        assert made == (1 if answer.replayed or point == "after_reserve" else 2)
        if point != "after_settle":
            assert made == (2 if point in MADE_TWICE else 1)
        assert answer.lost_attempts == (0 if answer.replayed else 1), "what was lost is said"
        assert again.replayed
        assert again.hold_id == answer.hold_id
        left = budget.held_nano_usd > 0
        assert len(charges) + left == made + (point == "after_reserve"), "each call is charged, or held to be assumed"
        assert left or point not in NEVER_SETTLED
        assert not left or point in (*NEVER_SETTLED, "before_record")
        assert answer.hold_id in {charge.hold_id for charge in charges}
        assert {charge.usage.output_tokens for charge in charges} == {provider.meter.calls[-1].completion_tokens}
