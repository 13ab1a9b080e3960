"""The address of the client behind a call.

The edge writes `x-forwarded-for` itself, whatever a client sent. A service believes it only from the machines where the
edge runs; anybody else who reaches a service directly is taken by the address of the connection.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Protocol
from urllib.parse import unquote

#: Where an edge may run unless the settings say otherwise: this machine.
LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
FORWARDED_FOR: Final = "x-forwarded-for"
#: What a client without an address is called, such as one on a Unix socket.
UNKNOWN: Final = "unknown"
_IPV6_BITS: Final = 64


class Connection(Protocol):
    """What gRPC tells of a call: a `ServicerContext`."""

    def peer(self) -> str: ...
    def invocation_metadata(self) -> Any: ...


class ClientAddresses:
    """Finds out where calls come from.

    Args:
        edges: networks in which the edge runs.
    """

    def __init__(self, edges: Sequence[IPv4Network | IPv6Network] = LOOPBACK) -> None:
        self._edges = tuple(edges)

    def of(self, connection: Connection) -> str:
        """Gives the address of the client: an IP address, or `unknown`."""
        return self.found(connection.peer(), connection.invocation_metadata() or ())

    def found(self, peer: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The same from what gRPC calls the peer (`ipv4:127.0.0.1:5000`) and the metadata of a call."""
        host = _host_of(peer)
        if not self._is_edge(host):
            return host
        told = [value for key, value in metadata if key == FORWARDED_FOR and isinstance(value, str)]
        # The last hop is the one that the edge saw itself.
        forwarded = _address(told[-1].rpartition(",")[2].strip()) if told else None
        return host if forwarded is None else str(forwarded)

    def _is_edge(self, host: str) -> bool:
        address = _address(host)
        return address is None or any(address in edge for edge in self._edges if edge.version == address.version)


def is_within(address: str, networks: tuple[str, ...]) -> bool:
    """Tells whether an address lies in one of these networks; one that is none lies nowhere.

    Args:
        networks: in CIDR form, checked.
    """
    found = _address(address)
    return found is not None and any(
        found in network for network in _networks(networks) if network.version == found.version
    )


@lru_cache(maxsize=1024)
def _networks(written: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in written)


def block_of(address: str) -> str:
    """Gives whom an address stands for: itself, or its /64, since one client of IPv6 has a whole one."""
    found = _address(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((int(found), _IPV6_BITS), strict=False))
    return address


@lru_cache(maxsize=4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


@lru_cache(maxsize=4096)
def _host_of(peer: str) -> str:
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return UNKNOWN
    host = rest.rpartition(":")[0]
    found = _address(host.removeprefix("[").removesuffix("]"))
    return UNKNOWN if found is None else str(found)
