"""Where messages go that cannot be handled, with the reason, and the way back."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from services.meshkit.bus.bus import Bus
from services.meshkit.bus.subjects import DEAD_STREAM, dead_subject
from services.meshkit.core.errors import Unavailable

#: A replayed message is for this consumer; the others acknowledge it unread.
REPLAY_FOR: Final = "Comitia-Replay-For"
_REASON: Final = "Comitia-Reason"
_SUBJECT: Final = "Comitia-Subject"
_ORIGINAL_ID: Final = "Comitia-Msg-Id"
_MOST_REASON: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that a consumer gave up on."""

    #: Number in the stream of dead letters.
    sequence: int
    durable: str
    subject: str
    body: bytes
    msg_id: str
    reason: str
    buried_time: datetime | None


async def bury(bus: Bus, message: Msg, *, durable: str, reason: str) -> None:
    """Keeps a message with the reason. Raises Unavailable when it could not be kept: then do not acknowledge it."""
    place = message.metadata
    headers = message.headers or {}
    await bus.publish(
        dead_subject(durable),
        message.data,
        msg_id=f"{place.stream}:{place.sequence.stream}:{durable}",
        headers={
            _REASON: _one_line(reason),
            _SUBJECT: message.subject,
            _ORIGINAL_ID: headers.get("Nats-Msg-Id", ""),
        },
    )


async def dead_letters(bus: Bus, durable: str, *, limit: int = 1_000) -> AsyncGenerator[DeadLetter]:
    """Lists a consumer's dead letters, oldest first."""
    jetstream = bus.jetstream()
    sequence = 1
    for _ in range(limit):
        try:
            raw = await jetstream.get_msg(DEAD_STREAM, seq=sequence, subject=dead_subject(durable), next=True)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats") from cause
        headers = cast("dict[str, str]", raw.headers or {})  # pyright: ignore[reportUnknownMemberType]
        sequence = (raw.seq or 0) + 1
        yield DeadLetter(
            sequence=raw.seq or 0,
            durable=durable,
            subject=headers.get(_SUBJECT, ""),
            body=raw.data or b"",
            msg_id=headers.get(_ORIGINAL_ID, ""),
            reason=headers.get(_REASON, ""),
            buried_time=raw.time,
        )


async def replay(bus: Bus, durable: str, *, limit: int = 1_000) -> int:
    """Gives a consumer its dead letters again, oldest first, and removes them; returns how many.

    The stream of their subject must be declared on this bus. Harmless to repeat after a crash: a letter that was
    published and not yet removed has the same id again.
    """
    count = 0
    async for letter in dead_letters(bus, durable, limit=limit):
        await bus.publish(
            letter.subject,
            letter.body,
            msg_id=f"{letter.msg_id}#replay-{letter.sequence}",
            headers={REPLAY_FOR: durable},
        )
        try:
            await bus.jetstream().delete_msg(DEAD_STREAM, letter.sequence)
        except nats.js.errors.NotFoundError:
            pass  # another replay was quicker
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats") from cause
        count += 1
    return count


def _one_line(text: str) -> str:
    """Makes a header value: one line of printable ASCII, bounded."""
    return "".join(letter if " " <= letter <= "~" else " " for letter in text)[:_MOST_REASON]
