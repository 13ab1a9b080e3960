"""Kill -9 of inference at each failpoint of a batch: handed over once, and a ledger that equals the provider's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from sqlalchemy import text

from comitia.inference.v1 import model_batch_pb2
from services.meshkit.core.clock import SystemClock
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import maintenance_scope
from tests.faults.test_inference_kills import Process, environment_of
from tests.integration.conftest import MakeDatabase, make_database, nats_server, postgres
from tests.integration.inference.conftest import InferenceMesh, running_cost
from tests.integration.inference.test_model_batches import Patient, a_batch, books_equal_the_meter, name_of
from tests.support.fake_grants import fake_grants
from tests.support.fake_policy import fake_policy, keys_in
from tests.support.held_calls import held_calls
from tests.support.providers.fake import fake_provider

__all__ = ["make_database", "nats_server", "postgres"]

pytestmark = pytest.mark.faults

#: Points after which the batch goes on to its end as if nothing had happened.
POINTS = ("after_hold", "after_held", "after_submit", "after_running", "after_settle", "after_record")


@dataclass(frozen=True, kw_only=True)
class Crashing:
    """Inference as a process that dies, and what it stands among."""

    process: Process
    urls: DatabaseUrls
    make: Any

    async def write(self, change: str) -> None:
        """Changes batches behind the service's back."""
        async with sql_engine(self.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            await scope.execute(text(f"UPDATE model_batch SET {change}"))
            await scope.commit()

    async def end_leases(self) -> None:
        """Has nobody wait for the minute that a dead replica's lease lasts."""
        await self.write("lease_until = NULL, look_time = clock_timestamp()")

    async def dies(self, point: str) -> model_batch_pb2.ModelBatch:
        """Has it take a batch and die at the point."""
        async with self.process.running(f"inference.batch_{point}=kill") as channel:
            patient: Patient = self.make(channel)
            batch = (await patient.call("CreateModelBatch", a_batch("one", "two", "three", model="default"))).batch
            async with asyncio.timeout(20):
                await self.process.ended()
        await self.end_leases()
        return batch


@asynccontextmanager
async def crashing(make_database: MakeDatabase, folder: Path) -> AsyncIterator[Crashing]:
    keys = keys_in(folder / "keys", SystemClock())
    create_kek_file(folder / "kek")
    urls = await make_database("inference")
    await migrate("services.inference", urls.migrator)
    async with (
        fake_provider() as provider,
        fake_policy(keys) as law,
        fake_grants(keys) as grants,
        running_cost(make_database, keys, folder) as money,
        held_calls(money.url) as ledger,
    ):
        provider.ledger = ledger
        environment = environment_of(urls, keys, folder, law, provider, money.target)
        environment["COMITIA_INFERENCE_GATEWAY_TARGET"] = grants.target
        environment["COMITIA_INFERENCE_BATCH_POLL_SECONDS"] = "0.05"

        def patient(channel: grpc.aio.Channel) -> Patient:
            mesh = InferenceMesh(
                target="",
                keys=keys,
                urls=urls,
                principal=keys.principal(),
                law=law,
                provider=provider,
                money=money,
                channel=channel,
            )
            return Patient(mesh, grants)

        yield Crashing(process=Process(environment), urls=urls, make=patient)


@pytest.mark.parametrize("point", POINTS)
async def test_a_killed_batch_goes_on_and_is_paid_for_as_metered(
    make_database: MakeDatabase, tmp_path: Path, point: str
) -> None:
    async with crashing(make_database, tmp_path) as it:
        made = await it.dies(point)
        async with it.process.running() as channel:
            patient: Patient = it.make(channel)
            batch = await patient.ended(made)
            assert (name_of(batch.state), batch.answered_count) == ("ended", 3)
            assert patient.mesh.provider.batches.submissions == 1
            assert (await patient.mesh.budget()).held_nano_usd == 0
            await books_equal_the_meter(patient)


async def test_a_batch_that_died_before_it_left_is_never_sent_and_given_up(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    async with crashing(make_database, tmp_path) as it:
        made = await it.dies("before_submit")
        async with it.process.running() as channel:
            patient: Patient = it.make(channel)
            assert name_of((await patient.get(made)).state) == "submitting"
            await it.write("submitted_time = submitted_time - interval '11 minutes'")
            batch = await patient.ended(made)
            assert (name_of(batch.state), batch.reason, batch.unknown_count) == ("lost", "BATCH_NOT_FOUND", 3)
            assert patient.mesh.provider.batches.submissions == 0
            # Nobody knows, so it stays held until it is charged as assumed.
            assert (await patient.mesh.budget()).held_nano_usd > 0
            assert await patient.mesh.charges() == []
