"""Which addresses may be connected to that a tenant names: only those that every machine of the internet may.

A name is resolved once, all of its addresses are checked, and the socket is opened to one of these: there is no second
look-up in which a name could come to mean another machine. Each address is checked once more as its socket is made,
however it got there: hosts that are numbers are asked of no resolver, and there are many ways to write a number.
"""

import asyncio
import errno
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, Protocol, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

#: What `getaddrinfo` gives of one address.
AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
#: Gives the addresses of a host, as text.
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
#: Addresses of clouds' own services, of relays, of sites from before `fc00::/7` and of books: they look like any other.
_NEVER: Final = (
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("fec0::/10"),
    IPv6Network("3fff::/20"),
)
#: Prefixes under which IPv6 carries an IPv4 address, and where in its 128 bits that one ends.
_TRANSLATED: Final = (
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),
    (IPv6Network("::/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
)


class AddressRefused(Exception):
    """A host stands at an address that may not be reached. The model reads why, if a tool asked."""


class ChecksAddresses(Protocol):
    """Says which addresses may be connected to."""

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused unless the address may be connected to; as a socket is made, it is its own host."""
        ...


class AddressRule:
    """Says which addresses may be connected to.

    Args:
        allow_private: True to allow loopback and private networks, for tests and closed networks. Link-local addresses,
            where clouds keep their credentials, stay refused.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private

    def check_url(self, url: URL) -> None:
        """Raises AddressRefused if the host of a URL is a number and no address that may be connected to.

        Looks at the host as it is connected to, after its letters and digits were brought to their plain forms.
        """
        literal = literal_address(url.raw_host or "")
        if literal is not None:
            self.check(literal, literal)

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused unless the address may be connected to."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError as cause:
            raise AddressRefused(f"{host} is no address that can be reached") from cause
        if not all(self._is_open(form) for form in _forms(found)):
            raise AddressRefused(f"{host} is not a public address, so it may not be reached")

    def _is_open(self, address: IPv4Address | IPv6Address) -> bool:
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        if any(address in network for network in _NEVER):
            return False
        if self._allow_private and (address.is_loopback or address.is_private):
            return True
        return address.is_global and not address.is_reserved and not address.is_loopback


def literal_address(host: str) -> str | None:
    """Gives the host without a dot at its end when it is a number instead of a name, else None.

    As browsers see it: no name ends in a number, so `127.1`, `2130706433` and `0x7f.1` are numbers, and only those in
    the usual form pass `AddressRule`.
    """
    number = host.rstrip(".")
    last = number.rpartition(".")[2]
    return number if ":" in host or _NUMBER.fullmatch(last) else None


def _forms(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Gives what an address means: itself, or the IPv4 address that it carries. `::1` is no such carrier."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.teredo is not None:
        return [address, *address.teredo]
    for network, shift in _TRANSLATED:
        if address in network:
            return [IPv4Address((int(address) >> shift) & 0xFFFFFFFF)]
    return [address]


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp and refuses a name if any of its addresses is refused."""

    def __init__(self, rule: ChecksAddresses, lookup: Lookup) -> None:
        self._rule = rule
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `AbstractResolver`. Raises: AddressRefused; OSError: no such name."""
        addresses = await self._lookup(host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            self._rule.check(host, address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """See `AbstractResolver`."""


def checked_connector(
    rule: ChecksAddresses, lookup: Lookup, *, use_dns_cache: bool = False, **options: Any
) -> aiohttp.TCPConnector:
    """Gives what opens connections to allowed addresses and to no others.

    Args:
        use_dns_cache: False to look a name up for each connection.
        options: further arguments of the connector.
    """

    def make(address: AddrInfo) -> socket.socket:
        family, kind, protocol = address[:3]
        number = str(cast(tuple[object, ...], address[4])[0])
        try:
            rule.check(number, number)
        except AddressRefused as refusal:
            raise PermissionError(errno.EACCES, str(refusal)) from refusal
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=CheckedResolver(rule, lookup), use_dns_cache=use_dns_cache, socket_factory=make, **options
    )


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Asks the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
