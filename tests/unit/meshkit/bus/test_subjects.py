"""Names on NATS."""

from uuid import UUID

import pytest

from services.meshkit.bus.live import LiveMessage, LiveSubscription
from services.meshkit.bus.subjects import dead_subject, event_subject, live_subject, service_stream


def test_an_event_lands_in_the_stream_of_its_service_and_live_text_in_none() -> None:
    stream = service_stream("tools")
    assert event_subject("tools", "tool", "approved") == "comitia.tools.tool.approved.v1"
    assert stream.covers("comitia.tools.tool.approved.v1")
    assert not stream.covers("comitia.cost.hold.expired.v1")
    assert not stream.covers(live_subject("tools", "call", "delta", tenant=UUID(int=1), key="run_1"))
    assert not stream.covers(dead_subject("tools-audit"))


@pytest.mark.parametrize("token", ["", "a.b", "*", ">", "a b", "é"])
def test_a_token_that_would_change_the_subject_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        live_subject("tools", "call", "delta", key=token)


@pytest.mark.parametrize("service", ["live", "dead"])
def test_the_reserved_families_are_no_services(service: str) -> None:
    with pytest.raises(ValueError, match="no service"):
        service_stream(service)


async def test_a_closed_subscription_gives_what_arrived_and_ends() -> None:
    listening = LiveSubscription("x", group="", most=2)
    for number in range(3):
        listening.put(LiveMessage("x", b"%d" % number))
    listening.close()
    assert [message.body async for message in listening] == [b"1", b"2"]
    assert listening.dropped == 1
