"""gRPC face of violations."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from grpc.aio import ServicerContext

from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1.policy_service_pb2_grpc import ViolationServiceServicer
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.limits import begin_watch
from services.meshkit.grpc.until_drain import until_drain
from services.policy.domain.errors import WatchInterrupted
from services.policy.transport import convert
from services.policy.usecases.ports import ViolationStore
from services.policy.usecases.watch_violations import WatchViolations

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class ViolationServicer(ViolationServiceServicer):
    """Converts, reads, converts back. No decisions here."""

    def __init__(self, *, violations: ViolationStore, watch: WatchViolations) -> None:
        self._violations = violations
        self._watch = watch

    async def ListViolations(self, request: pb.ListViolationsRequest, context: Context) -> pb.ListViolationsResponse:
        size = clamp_page_size(request.page_size)
        wanted = convert.to_filter(request.run_id, rule=request.rule, min_severity=request.min_severity)
        place = decode_page_token(request.page_token, int)
        found = await self._violations.newest(
            caller_of(context).principal.tenant, wanted, before=None if place is None else place[0], most=size + 1
        )
        page, more = one_page(found, size, lambda violation: (violation.sequence,))
        return pb.ListViolationsResponse(
            violations=[convert.violation_to_proto(violation) for violation in page], next_page_token=more
        )

    async def WatchViolations(
        self, request: pb.WatchViolationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchViolationsResponse]:
        wanted = convert.to_filter(request.run_id)
        after = convert.to_after(request.after_sequence)
        begun = partial(begin_watch, context)
        found = self._watch(caller_of(context).principal.tenant, wanted, after=after, begun=begun)
        async for violation in until_drain(found, interrupted=WatchInterrupted):
            yield pb.WatchViolationsResponse(
                sequence=violation.sequence, violation=convert.violation_to_proto(violation)
            )
