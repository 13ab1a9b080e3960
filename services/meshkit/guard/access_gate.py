"""Asks the gateway whether a caller has a relation to a thing, and remembers the answer for a moment."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import grpc.aio

from comitia.gateway.v1 import access_service_pb2 as pb
from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceStub
from services.meshkit.core.access import RelationMissing
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.telemetry import metrics

#: The RPC may be sent again; for `grpc.channel.channel(idempotent=…)`.
IDEMPOTENT: Final = ("/comitia.gateway.v1.AccessService/AuthorizeCaller",)
#: How long a yes is trusted: a relation that was taken away ends everywhere within it.
YES_SECONDS: Final = 5.0
#: How long a no is trusted: a relation that was granted works after it.
NO_SECONDS: Final = 1.0
#: How much longer a yes will do for reading while the gateway is away.
LAST_KNOWN_SECONDS: Final = 300.0
_MOST_REMEMBERED: Final = 10_000
_SECONDS: Final = 2.0

_AWAY: Final = (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE)

_Key = tuple[TenantId, str, frozenset[Role], str, str]


@dataclass(frozen=True, slots=True)
class _Answer:
    allowed: bool
    missing: str
    #: Until when it holds, on the monotonic clock.
    until: float


class GatewayAccessGate:
    """Implements `core.access.AccessGate`. Without the gateway nobody passes on a guess."""

    def __init__(self, gateway: grpc.aio.Channel, *, clock: Clock) -> None:
        self._stub = AccessServiceStub(gateway)
        self._clock = clock
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()

    def show(self, service: str) -> None:
        """Has the metrics page show how many answers are remembered."""
        metrics.show_size(f"{service}.access_answers", self._answers)

    async def require(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> None:
        """See `AccessGate.require`."""
        answer = await self._answer(caller.principal, relation, thing, last_known=last_known)
        if not answer.allowed:
            raise RelationMissing(relation, thing, missing=answer.missing)

    async def allows(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> bool:
        """See `AccessGate.allows`."""
        return (await self._answer(caller.principal, relation, thing, last_known=last_known)).allowed

    async def _answer(self, principal: Principal, relation: str, thing: str, *, last_known: bool) -> _Answer:
        now = self._clock.monotonic()
        if Role.ADMIN in principal.roles:
            return _Answer(True, "", now)
        key = (principal.tenant, principal.subject, principal.roles, relation, thing)
        known = self._answers.get(key)
        if known is not None and now < known.until:
            return known
        try:
            answer = await self._ask(principal, relation, thing)
        except MeshError as error:
            if error.kind not in _AWAY or not last_known or known is None:
                raise
            if not known.allowed or now > known.until + LAST_KNOWN_SECONDS:
                raise
            return known
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > _MOST_REMEMBERED:
            self._answers.popitem(last=False)
        return answer

    async def _ask(self, principal: Principal, relation: str, thing: str) -> _Answer:
        with remote_errors():
            said = await self._stub.AuthorizeCaller(
                pb.AuthorizeCallerRequest(relation=relation, object=thing),
                timeout=_SECONDS,
                metadata=call_metadata(principal),
            )
        seconds = YES_SECONDS if said.allowed else NO_SECONDS
        return _Answer(said.allowed, said.missing, self._clock.monotonic() + seconds)
