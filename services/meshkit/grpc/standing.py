"""Ends a call that goes on for long when whoever made it may no longer make it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.grpc.identity import VerifiedToken


class Ends(Protocol):
    """Tells when callers may no longer come in; a part of `meshkit.grpc.guard.Standing`."""

    def check(self, verified: VerifiedToken) -> None:
        """See `Standing.check`."""
        ...

    def changed(self, listener: Callable[[TenantId | None], None]) -> AbstractContextManager[None]:
        """See `Standing.changed`."""
        ...


class WhileStanding:
    """Cancels the work of its block when the caller is revoked or its tenant suspended.

    Made where it is entered.

    Raises: TokenRevoked, TenantSuspended: at the end of the block, in place of the cancellation.
    """

    def __init__(self, standing: Ends, verified: VerifiedToken) -> None:
        self._standing = standing
        self._verified = verified
        self._refusal: MeshError | None = None
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in a task
        self._task = task
        self._cancelling = task.cancelling()
        self._listening = standing.changed(self._look)

    async def __aenter__(self) -> None:
        self._listening.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.__exit__(None, None, None)
        if self._refusal is None:
            return
        if self._task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._refusal from error

    def _look(self, tenant: TenantId | None) -> None:
        if self._refusal is not None or tenant not in (None, self._verified.principal.tenant):
            return
        try:
            self._standing.check(self._verified)
        except MeshError as refusal:
            self._refusal = refusal
            self._task.cancel()
