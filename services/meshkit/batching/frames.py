"""The shape that all batch streams share, whatever their items say.

A request frame has `identities` and `items`, a request item has a `header`; an answer frame has `items` and `leaving`,
an answer item has a `status`. The rest of an item belongs to the service.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from comitia.common.v1.batch_pb2 import IdentityTable, ItemHeader, ItemStatus

#: Bounds of one frame, either way.
MAX_FRAME_ITEMS: Final = 512
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024


class RequestItem(Protocol):
    """An item of a request frame."""

    @property
    def header(self) -> ItemHeader: ...
    def ByteSize(self) -> int: ...  # noqa: N802  # protobuf's name


class AnswerItem(Protocol):
    """An item of an answer frame."""

    @property
    def status(self) -> ItemStatus: ...
    def ByteSize(self) -> int: ...  # noqa: N802  # protobuf's name


Item = TypeVar("Item", bound=RequestItem)
Answer = TypeVar("Answer", bound=AnswerItem)
Item_co = TypeVar("Item_co", bound=RequestItem, covariant=True)
#: Class of an answer frame: a message with the answers in `items`.
FrameOut = TypeVar("FrameOut")


class RequestFrame(Protocol[Item_co]):
    """A frame of requests."""

    @property
    def identities(self) -> IdentityTable: ...
    @property
    def items(self) -> Sequence[Item_co]: ...


class MakeFrame(Protocol):
    """The class of a request frame: makes one from its parts."""

    # The parts are messages of the service that owns the frame.
    def __call__(self, *, items: Iterable[Any]) -> Any: ...


class MakeAnswers(Protocol):
    """The class of an answer frame, likewise."""

    def __call__(self, *, items: Iterable[Any], leaving: bool = False) -> Any: ...
