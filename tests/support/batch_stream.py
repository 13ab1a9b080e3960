"""A batch stream as its bytes have it: frames of items that the test numbers, and what came back for each number."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from comitia.common.v1.batch_pb2 import IdentityTable, ItemHeader
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.errors import from_status


class BatchStream:
    """Sends frames on an open batch call and reads answers.

    Args:
        frame: class of the request frame.
        callers: whose tokens the items name, by index.
    """

    def __init__(self, call: Any, frame: Any, *callers: Principal) -> None:
        self._call = call
        self._frame = frame
        self._tokens = [caller.token.reveal() for caller in callers]
        self._sent = 0
        self._answers: dict[int, list[Any]] = {}

    async def send(self, *items: tuple[int, Any], seconds: float | None = None) -> list[int]:
        """Sends items in one frame, each with the index of its caller; gives their numbers.

        Args:
            seconds: until the deadline of each.
        """
        frame = self._frame(identities=IdentityTable(access_tokens=self._tokens))
        self._tokens = []
        numbers: list[int] = []
        for who, item in items:
            self._sent += 1
            numbers.append(self._sent)
            item.header.CopyFrom(ItemHeader(item_id=self._sent, identity_index=who))
            if seconds is not None:
                item.header.deadline_time.FromDatetime(SystemClock().now() + timedelta(seconds=seconds))
            frame.items.append(item)
        await self._call.write(frame)
        return numbers

    async def take_back(self, *numbers: int) -> None:
        """Cancels items."""
        frame = self._frame()
        for number in numbers:
            frame.items.add().header.CopyFrom(ItemHeader(item_id=number, cancel=True))
        await self._call.write(frame)

    async def answers(self, numbers: Sequence[int]) -> list[Any]:
        """Waits for the last answers of items; gives each, or the reason of its error, in order."""
        return [(await self.pieces(number))[-1] for number in numbers]

    async def pieces(self, number: int) -> list[Any]:
        """Waits for the last answer of an item; gives all that it got. The last may be the reason of an error."""
        while not (self._answers.get(number) and not _more(self._answers[number][-1])):
            for answer in (await self._call.read()).items:
                failed = answer.status.HasField("error")
                got = from_status(answer.status.error).reason if failed else answer
                self._answers.setdefault(answer.status.item_id, []).append(got)
        return self._answers[number]

    async def ask(self, *items: tuple[int, Any]) -> list[Any]:
        """Sends items in one frame and waits for what becomes of each."""
        return await self.answers(await self.send(*items))


def _more(answer: Any) -> bool:
    return not isinstance(answer, str) and bool(answer.status.more)


def reasons(answers: Sequence[Any]) -> list[str]:
    """Gives `ok` or the reason of the error, for each answer."""
    return [answer if isinstance(answer, str) else "ok" for answer in answers]
