"""gRPC face of sessions."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

from grpc.aio import ServicerContext

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import session_pb2, session_service_pb2_grpc
from comitia.orchestrator.v1 import session_service_pb2 as pb
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, encode_page_token, one_page
from services.meshkit.grpc.call import caller_of, current_call
from services.meshkit.grpc.guard import PermissionMissing, check_permission
from services.meshkit.grpc.limits import begin_watch
from services.meshkit.grpc.once import once
from services.orchestrator.engine.watch import RunWatch, ShownSession
from services.orchestrator.transport import convert
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.start_session import StartSession
from services.orchestrator.usecases.steer_session import AdvanceSession, CancelSession

#: What may see what a session is about.
_READS: Final = GUARDS["/comitia.orchestrator.v1.SessionService/GetSession"]


class SessionReader(Protocol):
    """Reads sessions of a tenant."""

    async def session(self, tenant: TenantId, session_id: str) -> session_pb2.Session:
        """Gives a session as it stands. Raises: SessionNotFound."""
        ...

    async def sessions(
        self, tenant: TenantId, *, before: str | None, most: int
    ) -> tuple[Sequence[session_pb2.Session], bool]:
        """Gives sessions newest first, those older than the run `before`; and whether there are more."""
        ...

    async def turns(
        self, tenant: TenantId, session_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """Gives recorded turns after turn number `after`, in order, with their numbers."""
        ...


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Converts, calls one use case or the reader, converts back."""

    def __init__(
        self,
        *,
        start_session: StartSession,
        advance_session: AdvanceSession,
        cancel_session: CancelSession,
        sessions: SessionReader,
        watch: RunWatch,
        access: RunAccess,
    ) -> None:
        self._start_session = start_session
        self._advance_session = advance_session
        self._cancel_session = cancel_session
        self._sessions = sessions
        self._watch = watch
        self._access = access

    async def StartSession(
        self,
        request: pb.StartSessionRequest,
        context: ServicerContext[pb.StartSessionRequest, pb.StartSessionResponse],
    ) -> pb.StartSessionResponse:
        """See the contract."""
        caller = caller_of(context)
        return pb.StartSessionResponse(
            session=await self._start_session(convert.to_start_command(request, caller=caller))
        )

    async def GetSession(
        self, request: pb.GetSessionRequest, context: ServicerContext[pb.GetSessionRequest, pb.GetSessionResponse]
    ) -> pb.GetSessionResponse:
        """See the contract."""
        return pb.GetSessionResponse(session=await self._readable(caller_of(context), request.session_id))

    async def ListSessions(
        self,
        request: pb.ListSessionsRequest,
        context: ServicerContext[pb.ListSessionsRequest, pb.ListSessionsResponse],
    ) -> pb.ListSessionsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, str)
        before = None if place is None else place[0]
        caller = caller_of(context)
        page, more = await self._sessions.sessions(caller.principal.tenant, before=before, most=size)
        return pb.ListSessionsResponse(
            sessions=await self._access.readable(caller, page),
            next_page_token=encode_page_token(page[-1].session_id) if more else "",
        )

    async def ListTurns(
        self, request: pb.ListTurnsRequest, context: ServicerContext[pb.ListTurnsRequest, pb.ListTurnsResponse]
    ) -> pb.ListTurnsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, int)
        after = 0 if place is None else place[0]
        caller = caller_of(context)
        session = await self._readable(caller, request.session_id)
        found = await self._sessions.turns(caller.principal.tenant, session.session_id, after=after, most=size + 1)
        page, more = one_page(found, size, lambda turn: (turn[0],))
        return pb.ListTurnsResponse(turns=[turn for _, turn in page], next_page_token=more)

    async def WatchSession(
        self,
        request: pb.WatchSessionRequest,
        context: ServicerContext[pb.WatchSessionRequest, pb.WatchSessionResponse],
    ) -> AsyncGenerator[pb.WatchSessionResponse]:
        """See the contract."""
        if request.after_sequence < 0:
            raise Invalid("after_sequence", "must be 0 or the sequence of an event")
        caller = caller_of(context)
        session = await self._readable(caller, request.session_id)
        call = current_call()
        events = self._watch.events(
            caller.principal.tenant,
            session.session_id,
            ShownSession(session if request.after_sequence >= session.sequence else None),
            after=request.after_sequence,
            stopped=lambda: call is not None and call.drain.begun,
            begun=partial(begin_watch, context),
        )
        async with aclosing(events):
            async for event in events:
                # What was taken away meanwhile ends the stream; the gate remembers its answer for seconds.
                await self._access.to_read(caller, session)
                yield event

    async def AdvanceSession(
        self,
        request: pb.AdvanceSessionRequest,
        context: ServicerContext[pb.AdvanceSessionRequest, pb.AdvanceSessionResponse],
    ) -> pb.AdvanceSessionResponse:
        """See the contract."""
        caller, session_id = caller_of(context), _session_id(request.session_id)
        answer = await once(
            request,
            lambda: self._advance_session(caller, session_id),
            lambda session: pb.AdvanceSessionResponse(session=session),
            answers=pb.AdvanceSessionResponse,
        )
        _hide(caller, answer.session)
        return answer

    async def CancelSession(
        self,
        request: pb.CancelSessionRequest,
        context: ServicerContext[pb.CancelSessionRequest, pb.CancelSessionResponse],
    ) -> pb.CancelSessionResponse:
        """See the contract."""
        caller, session_id = caller_of(context), _session_id(request.session_id)
        answer = await once(
            request,
            lambda: self._cancel_session(caller, session_id),
            lambda session: pb.CancelSessionResponse(session=session),
            answers=pb.CancelSessionResponse,
        )
        _hide(caller, answer.session)
        return answer

    async def _readable(self, caller: Caller, session_id: str) -> session_pb2.Session:
        session = await self._sessions.session(caller.principal.tenant, _session_id(session_id))
        await self._access.to_read(caller, session)
        return session


def _session_id(session_id: str) -> str:
    to_uuid(session_id, "run", field="session_id")
    return session_id


def _hide(caller: Caller, session: session_pb2.Session) -> None:
    """Takes the topic out of what is shown to somebody who steers a session and may not read it."""
    try:
        check_permission(caller.principal, _READS)
    except PermissionMissing:
        session.ClearField("topic_start")
        session.ClearField("topic_final")
