"""Faults that a fake raises, in the order in which a test queued them."""

from collections import deque


class FaultQueue:
    """Part of a fake: `store.faults.next(Unavailable("postgres"))` makes its next operation fail.

    The fake calls `hit()` at the start of each operation.
    """

    def __init__(self) -> None:
        self._queued: deque[Exception | None] = deque()
        #: Faults raised so far.
        self.raised = 0

    def next(self, fault: Exception, *, after: int = 0, times: int = 1) -> None:
        """Queues `fault` for `times` operations, once `after` more have gone well."""
        self._queued.extend([None] * after)
        self._queued.extend([fault] * times)

    def hit(self) -> None:
        """Raises the fault whose turn it is, if any."""
        fault = self._queued.popleft() if self._queued else None
        if fault is not None:
            self.raised += 1
            raise fault
