"""Tokens of runs: a grant and our workload assertion, exchanged at the gateway."""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

import grpc.aio

from comitia.gateway.v1 import identity_service_pb2, identity_service_pb2_grpc
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.errors import remote_errors
from services.orchestrator.engine.run import OwnedRun

#: Tokens kept; the least recently used goes first.
_MAX_TOKENS: Final = 10_000
#: A token is exchanged anew this long before it stops working: longer than any call lasts (`worker.patience`), so that
#: law and money still take it at the end of the call.
MARGIN: Final = timedelta(seconds=330)
_SECONDS: Final = 5.0


class RunTokens:
    """Implements `worker.caller.RunTokens`."""

    def __init__(self, gateway: grpc.aio.Channel, *, clock: Clock) -> None:
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(gateway)
        self._clock = clock
        self._tokens: OrderedDict[tuple[TenantId, str], tuple[Principal, datetime]] = OrderedDict()

    @property
    def kept(self) -> int:
        """How many tokens are kept."""
        return len(self._tokens)

    async def principal(self, run: OwnedRun) -> Principal:
        """See `RunTokens.principal`."""
        key = _key(run)
        kept = self._tokens.get(key)
        if kept is not None and kept[1] > self._clock.now():
            self._tokens.move_to_end(key)
            return kept[0]
        request = identity_service_pb2.ExchangeGrantRequest(grant_id=run.grant_id, run_id=run.run_id)
        with remote_errors():
            answer = await self._identity.ExchangeGrant(request, timeout=_SECONDS)
        principal = Principal(
            tenant=run.tenant,
            subject=run.grant_id,
            roles=frozenset(),
            run_id=run.run_id,
            token=Secret(answer.access_token),
        )
        fresh_until = answer.expire_time.ToDatetime(tzinfo=self._clock.now().tzinfo) - MARGIN
        self._make_room()
        self._tokens[key] = (principal, fresh_until)
        self._tokens.move_to_end(key)
        return principal

    def forget(self, run: OwnedRun) -> None:
        """See `RunTokens.forget`."""
        self._tokens.pop(_key(run), None)

    def _make_room(self) -> None:
        """Drops tokens that are no longer fresh, as far as nobody has asked for them since: most runs have ended."""
        now = self._clock.now()
        while self._tokens:
            key, (_, fresh_until) = next(iter(self._tokens.items()))
            if len(self._tokens) < _MAX_TOKENS and now < fresh_until:
                return
            del self._tokens[key]


def _key(run: OwnedRun) -> tuple[TenantId, str]:
    return run.tenant, run.run_id
