"""Tokens of runs are kept while they are fresh, and no longer."""

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from comitia.gateway.v1 import identity_service_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.testing.fake_clock import FakeClock
from services.orchestrator.clients.run_tokens import MARGIN, RunTokens
from services.orchestrator.engine.run import OwnedRun

TENANT = TenantId(UUID(int=1))
FRESH = timedelta(minutes=5)

Exchange = Callable[..., Awaitable[identity_service_pb2.ExchangeGrantResponse]]


class Gateway:
    """A channel at whose other end every grant is exchanged for a token that stays fresh for `FRESH`."""

    def __init__(self, clock: FakeClock) -> None:
        self.asked = Counter[str]()
        self._clock = clock

    def unary_unary(self, _method: str, **_: Any) -> Exchange:
        """See `grpc.aio.Channel.unary_unary`."""

        async def exchange(
            request: identity_service_pb2.ExchangeGrantRequest, *, timeout: float
        ) -> identity_service_pb2.ExchangeGrantResponse:
            del timeout
            self.asked[request.run_id] += 1
            answer = identity_service_pb2.ExchangeGrantResponse(access_token=f"of {request.run_id}")
            answer.expire_time.FromDatetime(self._clock.now() + FRESH + MARGIN)
            return answer

        return exchange


def run(number: int) -> OwnedRun:
    return OwnedRun(tenant=TENANT, run_id=from_uuid("run", UUID(int=number)), grant_id="grant_1", shard=0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_a_token_is_asked_for_once_while_it_is_fresh(clock: FakeClock) -> None:
    gateway = Gateway(clock)
    tokens = RunTokens(gateway, clock=clock)  # type: ignore[arg-type]
    first, again = await tokens.principal(run(1)), await tokens.principal(run(1))
    clock.advance(seconds=FRESH.total_seconds())
    await tokens.principal(run(1))
    assert first is again
    assert gateway.asked == {run(1).run_id: 2}
    assert tokens.kept == 1


async def test_tokens_of_runs_that_nobody_asked_for_since_they_were_fresh_are_not_kept(clock: FakeClock) -> None:
    gateway = Gateway(clock)
    tokens = RunTokens(gateway, clock=clock)  # type: ignore[arg-type]
    for number in range(10):
        await tokens.principal(run(number))
    clock.advance(seconds=FRESH.total_seconds())
    await tokens.principal(run(10))
    assert tokens.kept == 1
