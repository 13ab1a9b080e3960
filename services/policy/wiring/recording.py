"""Puts together what records violations, many at a time, and tells of them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from comitia.policy.v1.policy_service_pb2_grpc import add_ViolationServiceServicer_to_server
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.grpc.server import Registration
from services.policy.storage.violation_repository import ViolationRepository
from services.policy.transport.violation_servicer import ViolationServicer
from services.policy.usecases.record_violations import CommitViolations, Group, RecordViolations
from services.policy.usecases.violation_news import ViolationNews
from services.policy.usecases.watch_violations import WatchViolations
from services.policy.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What records violations and serves them. `news` is background work."""

    registration: Registration
    record: RecordViolations
    news: ViolationNews


@asynccontextmanager
async def recording(on: Ground) -> AsyncGenerator[Recording]:
    """Opens it; leaving the block records what waits."""
    settings = on.settings
    violations = ViolationRepository(on.app)
    news = ViolationNews(
        store=violations,
        wakes=on.wakes,
        clock=on.clock,
        poll_seconds=settings.watch_poll_seconds,
        most=settings.max_watches,
    )
    async with GroupCommit[Group, None](
        CommitViolations(store=violations, wakes=on.wakes, recorded=news.recorded),
        name="policy.violations",
        max_items=settings.record_batch_items,
        max_waiting=settings.record_queue_items,
    ) as commits:
        servicer = ViolationServicer(violations=violations, watch=WatchViolations(store=violations, news=news))
        yield Recording(
            registration=partial(add_ViolationServiceServicer_to_server, servicer),
            record=RecordViolations(commits),
            news=news,
        )
