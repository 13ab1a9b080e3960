"""Puts together how batches are taken, and how they are carried on."""

from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom

from services.inference.settings import InferenceSettings
from services.inference.storage.batch_repository import BatchRepository
from services.inference.transport.batch_convert import read_prompt
from services.inference.transport.batch_servicer import ModelBatchServicer
from services.inference.usecases.batch_ports import BatchHolds, BatchPrices, BatchTokens, HearsOfTenants
from services.inference.usecases.batches import CreateBatch
from services.inference.usecases.carry_batch import CarryBatch
from services.inference.usecases.poll_batches import PollBatches
from services.inference.wiring.registry import Known
from services.meshkit.calls.ports import LawGate
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """What serves ModelBatchService, and what runs behind it."""

    servicer: ModelBatchServicer
    poll: PollBatches


def batches(
    settings: InferenceSettings,
    *,
    known: Known,
    repository: BatchRepository,
    tokens: BatchTokens,
    law: LawGate,
    holds: BatchHolds,
    prices: BatchPrices,
    tenants: HearsOfTenants,
    clock: Clock,
    ids: IdSource,
) -> Batches:
    """Puts it together."""
    create = CreateBatch(
        registry=known.registry,
        open_batches=known.models,
        store=repository,
        tokens=tokens,
        tenants=tenants,
        clock=clock,
        ids=ids,
    )
    carry = CarryBatch(
        registry=known.registry,
        news=known.news,
        tenants=tenants,
        open_batches=known.models,
        store=repository,
        tokens=tokens,
        law=law,
        holds=holds,
        prices=prices,
        read=read_prompt,
        clock=clock,
    )
    poll = PollBatches(
        store=repository,
        carry=carry,
        every=timedelta(seconds=settings.batch_poll_seconds),
        retention=timedelta(hours=settings.batch_retention_hours),
        clock=clock,
        dice=SystemRandom(),
    )
    return Batches(servicer=ModelBatchServicer(create=create, store=repository), poll=poll)
