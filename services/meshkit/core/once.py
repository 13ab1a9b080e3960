"""A request that may come again: what makes it the same, and what its first answer was.

The servicer enters it (`meshkit.grpc.once`), the transaction of the mutation claims it and keeps the answer with its
commit (`meshkit.sql.once`), and a repeat leaves that transaction by `AnsweredBefore`.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from services.meshkit.core.errors import Conflict, Invalid
from services.meshkit.core.identity import TenantId


class RequestInProgress(Conflict):
    """The first request with this id is still at work. Ask again shortly; its answer is kept."""

    reason = "REQUEST_IN_PROGRESS"

    def __init__(self, request_id: UUID) -> None:
        super().__init__(
            f"the request {str(request_id)!r} is still at work; ask again shortly",
            retry_after=timedelta(milliseconds=250),
            request_id=request_id,
        )


@dataclass(slots=True, kw_only=True)
class Once:
    """One request with an id of its own."""

    tenant: TenantId
    #: Full name of the RPC, such as `comitia.tools.v1.ToolService/RegisterTool`.
    method: str
    request_id: UUID
    #: The request, written deterministically, without its id.
    body: bytes = field(repr=False)
    #: Writes what the use case made as the answer of the RPC, deterministically.
    # The type is the use case's; who keeps the answer has it at hand.
    answer: Callable[[Any], bytes] = field(repr=False)
    #: True once a transaction has asked whether this is a repeat. A mutation that forgets to is a bug of ours.
    claimed: bool = False


class AnsweredBefore(Exception):  # not a failure: it carries the first answer out of the transaction
    """This request was answered before; nothing is to be done."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("answered before")
        self.answer = answer


_once: ContextVar[Once | None] = ContextVar("once", default=None)


def current_once() -> Once | None:
    """Gives the request that the running task must not carry out twice; None for one without an id."""
    return _once.get()


@contextmanager
def entered(once: Once) -> Generator[None]:
    """Makes `once` the request of the block."""
    token = _once.set(once)
    try:
        yield
    finally:
        _once.reset(token)


def nothing_to_repeat() -> None:
    """Says that the running request changes nothing, so that its repeat does no harm and no answer is kept."""
    once = _once.get()
    if once is not None:
        once.claimed = True


def request_uuid(text: str) -> UUID | None:
    """Reads a `request_id`, None when it is left out.

    Raises: Invalid: it is no UUID as RFC 9562 writes them, 36 characters.
    """
    if not text:
        return None
    try:
        value = UUID(text)
    except ValueError as cause:
        raise Invalid("request_id", _NOT_A_UUID) from cause
    if len(text) != _UUID_CHARACTERS:
        # `UUID` also takes braces and a urn; one request is to have one spelling.
        raise Invalid("request_id", _NOT_A_UUID)
    return value


_UUID_CHARACTERS = 36
_NOT_A_UUID = "must be a UUID, such as 3f6b2c1e-8f5a-4f0e-9a51-0d2f6c1b7e42"
