"""Reads single fields of requests and says which one is wrong."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.meshkit.core.errors import Invalid

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_TTL: Final = 1
_MOST_WAIT: Final = 600
_MOST_TTL: Final = timedelta(hours=1)


def text_of(value: str, field: str, *, most: int, required: bool = False) -> str:
    """Accepts text without NUL, which no database stores, of at most `most` characters."""
    if required and not value:
        raise Invalid(field, "is required")
    if len(value) > most:
        raise Invalid(field, f"must have at most {most} characters")
    if "\x00" in value:
        raise Invalid(field, "must not hold the character NUL")
    return value


def uuid_of(value: str, field: str) -> UUID:
    """Accepts a UUID in its usual form."""
    try:
        if len(value) == 36:
            return UUID(value)
    except ValueError:
        pass
    raise Invalid(field, "must be a UUID such as 0190b3c4-6a5e-7c1d-8f2a-3b4c5d6e7f80")


def ttl_of(value: Duration, field: str = "ttl", *, most: timedelta = _MOST_TTL) -> timedelta:
    """Accepts 1 s to 1 h, or to `most`."""
    seconds, nanos = value.seconds, value.nanos
    longest = most.days * 86_400 + most.seconds
    if not _LEAST_TTL * 1_000_000_000 <= seconds * 1_000_000_000 + nanos <= longest * 1_000_000_000:
        raise Invalid(field, f"must be {_LEAST_TTL} s to {longest} s")
    return timedelta(0, seconds, nanos // 1000)


def wait_of(value: Duration, field: str = "wait") -> timedelta:
    """Accepts 0 s to 600 s."""
    seconds, nanos = value.seconds, value.nanos
    if not 0 <= seconds * 1_000_000_000 + nanos <= _MOST_WAIT * 1_000_000_000:
        raise Invalid(field, f"must be 0 s to {_MOST_WAIT} s")
    return timedelta(0, seconds, nanos // 1000)


def time_of(value: Timestamp, field: str) -> datetime:
    """Accepts a moment of the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError as cause:
        raise Invalid(field, "must lie in the years 1 to 9999") from cause


def timestamp_of(moment: datetime) -> Timestamp:
    """Writes a moment."""
    message = Timestamp()
    write_time(moment, message)
    return message


def write_time(moment: datetime, message: Timestamp) -> None:
    """Writes a moment into a message; `FromDatetime` takes four times as long."""
    since = moment - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000
