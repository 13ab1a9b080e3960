"""Answers of the mesh that hold for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Answer(Generic[Value]):
    """An answer and how long it holds."""

    value: Value
    #: Monotonic time, seconds.
    until: float


class Memory(Generic[Value]):
    """Remembers the latest answers, and has each question asked by one caller at a time.

    Args:
        most: answers that are kept; the oldest leaves first.
        monotonic: the clock, seconds.
    """

    def __init__(self, most: int, *, monotonic: Callable[[], float]) -> None:
        self._most = most
        self._monotonic = monotonic
        self._answers: dict[bytes, Answer[Value]] = {}
        self._asking: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._answers)

    def fresh(self, key: bytes) -> Answer[Value] | None:
        """Gives an answer that still holds."""
        answer = self._answers.get(key)
        return answer if answer is not None and self._monotonic() < answer.until else None

    def put(self, key: bytes, answer: Answer[Value]) -> None:
        """Remembers an answer."""
        self._answers.pop(key, None)
        if len(self._answers) >= self._most:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer

    def forget(self, key: bytes) -> None:
        """Forgets an answer."""
        self._answers.pop(key, None)

    async def get(self, key: bytes, ask: Callable[[Value | None], Awaitable[Answer[Value]]]) -> Value:
        """Gives an answer that holds, asking for it where there is none.

        Args:
            ask: is given the last answer, which holds no longer. What it raises is forgotten with the answer.
        """
        answer = self.fresh(key)
        if answer is None:
            lock = self._asking.setdefault(key, asyncio.Lock())
            async with lock:
                answer = self.fresh(key)
                if answer is None:
                    last = self._answers.pop(key, None)
                    answer = await ask(None if last is None else last.value)
                    self.put(key, answer)
        return answer.value
