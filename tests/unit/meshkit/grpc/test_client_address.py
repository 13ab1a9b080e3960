"""Whose address a call counts for, whatever its headers pretend."""

from ipaddress import IPv4Network

import pytest

from services.meshkit.grpc.client_address import UNKNOWN, ClientAddresses, block_of


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("ipv4:127.0.0.1:5000", ["192.0.2.7"], "192.0.2.7"),
        # What the edge itself saw comes last.
        ("ipv4:127.0.0.1:5000", ["10.1.1.1, 192.0.2.7"], "192.0.2.7"),
        ("ipv4:127.0.0.1:5000", ["10.1.1.1", "192.0.2.7"], "192.0.2.7"),
        ("ipv4:127.0.0.1:5000", [], "127.0.0.1"),
        ("ipv4:127.0.0.1:5000", ["nonsense"], "127.0.0.1"),
        # Not our edge: it may say what it likes.
        ("ipv4:203.0.113.9:5000", ["192.0.2.7"], "203.0.113.9"),
        ("ipv6:%5B2001:db8::1%5D:5000", ["192.0.2.7"], "2001:db8::1"),
        ("ipv6:%5B::1%5D:5000", ["2001:db8::2"], "2001:db8::2"),
        ("ipv6:[::ffff:127.0.0.1]:5000", ["192.0.2.7"], "192.0.2.7"),
        ("unix:/run/edge.sock", ["192.0.2.7"], "192.0.2.7"),
        ("unix:/run/edge.sock", [], UNKNOWN),
    ],
)
def test_only_the_edge_is_believed(peer: str, forwarded: list[str], address: str) -> None:
    metadata = [("X-other".lower(), "1"), *(("x-forwarded-for", value) for value in forwarded)]
    assert ClientAddresses().found(peer, metadata) == address


def test_an_edge_elsewhere_is_named_by_its_network() -> None:
    addresses = ClientAddresses([IPv4Network("10.2.0.0/16")])
    assert addresses.found("ipv4:10.2.3.4:1", [("x-forwarded-for", "192.0.2.7")]) == "192.0.2.7"
    assert addresses.found("ipv4:127.0.0.1:1", [("x-forwarded-for", "192.0.2.7")]) == "127.0.0.1"


def test_a_client_of_ipv6_has_a_whole_network() -> None:
    assert block_of("2001:db8::1") == block_of("2001:db8::ffff") == "2001:db8::/64"
    assert block_of("192.0.2.7") == "192.0.2.7"
