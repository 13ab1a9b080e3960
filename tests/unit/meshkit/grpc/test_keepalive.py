"""A server that does not allow the pings of our channels hangs up on idle neighbours, amid their next call."""

from services.meshkit.grpc import channel, server


def test_a_server_allows_the_pings_that_our_channels_send() -> None:
    sent, allowed = dict(channel._OPTIONS), dict(server._options())
    assert sent["grpc.keepalive_time_ms"] >= allowed["grpc.http2.min_ping_interval_without_data_ms"]
    assert allowed["grpc.keepalive_permit_without_calls"] >= sent["grpc.keepalive_permit_without_calls"]
