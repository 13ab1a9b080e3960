"""Answers a repeated request with the first answer. Servicers of mutations wrap their work in it."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from services.meshkit.core.errors import Internal, Unauthenticated
from services.meshkit.core.once import AnsweredBefore, Once, entered, request_uuid
from services.meshkit.grpc.call import current_call


class HasRequestId(Protocol):
    """A request with an id of its own."""

    request_id: str


Made = TypeVar("Made")
Answer = TypeVar("Answer", bound=Message)


async def once(
    request: HasRequestId,
    work: Callable[[], Awaitable[Made]],
    write: Callable[[Made], Answer],
    *,
    answers: type[Answer],
    keeps: Callable[[Made], Answer] | None = None,
) -> Answer:
    """Does the work of a mutation, or gives the answer that the same request got before.

    The transaction of the work claims the request before it writes (`meshkit.sql.once`) and keeps the answer.

    Args:
        request: its `request_id` may be empty; then this only works and writes.
        write: makes the answer of what the work made.
        keeps: makes what is kept of it for repeats, where the answer itself has a secret in it, which is never stored.
        answers: type of the answer.
    Raises: Invalid: `request_id` is no UUID. RequestIdReused: it came with another request. RequestInProgress.
    """
    request_id = request_uuid(request.request_id)
    if request_id is None:
        return write(await work())
    call = current_call()
    if call is None or call.principal is None:
        raise Unauthenticated("a request id belongs to a tenant, and nobody is calling")
    this = Once(
        tenant=call.principal.tenant,
        method=call.method.removeprefix("/"),
        request_id=request_id,
        body=body_of(request, call.principal.project),
        answer=lambda made: (keeps or write)(made).SerializeToString(deterministic=True),
    )
    with entered(this):
        try:
            made = await work()
        except AnsweredBefore as earlier:
            return answers.FromString(earlier.answer)
    if not this.claimed:
        raise Internal("a mutation did not ask whether it is a repeat", method=this.method)
    return write(made)


def body_of(request: Any, project: str | None) -> bytes:
    """Writes a request without its id, so that repeats of it are the same bytes.

    Args:
        project: that of a caller who is bound to one, and asks for something of it without saying so.
    """
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    written: bytes = body.SerializeToString(deterministic=True)
    # No message goes on after the byte 0, which is no field.
    return written if project is None else b"%s\0%s" % (written, project.encode())
