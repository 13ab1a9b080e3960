"""Puts together how batches are taken, and how they are carried on."""

from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom

from services.inference.clients.batch_holds import CostBatchHolds
from services.inference.clients.batch_tokens import BatchGrants
from services.inference.storage.batch_repository import BatchRepository
from services.inference.transport.batch_convert import read_prompt
from services.inference.transport.batch_servicer import ModelBatchServicer
from services.inference.usecases.batches import CreateBatch
from services.inference.usecases.carry_batch import CarryBatch
from services.inference.usecases.poll_batches import PollBatches
from services.inference.wiring.ground import Ground
from services.inference.wiring.registry import Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """What serves ModelBatchService, and what runs behind it."""

    servicer: ModelBatchServicer
    poll: PollBatches


def batches(on: Ground, *, known: Known) -> Batches:
    """Puts it together."""
    repository = BatchRepository(on.app, on.maintenance, keys=on.sealed.keys)
    tokens = BatchGrants(on.gateway, clock=on.clock)
    create = CreateBatch(
        registry=known.registry,
        open_batches=known.models,
        store=repository,
        tokens=tokens,
        tenants=on.guard.feed,
        clock=on.clock,
        ids=on.ids,
    )
    carry = CarryBatch(
        registry=known.registry,
        news=known.news,
        tenants=on.guard.feed,
        open_batches=known.models,
        store=repository,
        tokens=tokens,
        law=on.law,
        holds=CostBatchHolds(on.money, ids=on.ids),
        prices=on.prices,
        read=read_prompt,
        clock=on.clock,
    )
    poll = PollBatches(
        store=repository,
        carry=carry,
        every=timedelta(seconds=on.settings.batch_poll_seconds),
        retention=timedelta(hours=on.settings.batch_retention_hours),
        clock=on.clock,
        dice=SystemRandom(),
    )
    return Batches(servicer=ModelBatchServicer(create=create, store=repository), poll=poll)
