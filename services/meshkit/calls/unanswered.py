"""Requests whose answer never came."""

from typing import Final
from uuid import UUID

#: Questions remembered; the oldest are dropped. What they made is then left to its own end.
_MOST: Final = 10_000

#: All that makes two requests ask for the same thing, their ids excepted.
Question = tuple[object, ...]


class Unanswered:
    """Remembers the ids of requests that may have taken effect unseen, so that asking again finds what they made.

    An id is given out once: what one request made is never for two callers.
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self._ids: dict[Question, list[UUID]] = {}
        self._most = most

    def add(self, question: Question, request_id: UUID) -> None:
        """Remembers a request that was sent and not answered."""
        if question not in self._ids and len(self._ids) >= self._most:
            del self._ids[next(iter(self._ids))]
        self._ids.setdefault(question, []).append(request_id)

    def take(self, question: Question) -> UUID | None:
        """Gives the id of such a request, None if there is none."""
        waiting = self._ids.get(question)
        if waiting is None:
            return None
        request_id = waiting.pop()
        if not waiting:
            del self._ids[question]
        return request_id
