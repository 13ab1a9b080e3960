"""Where this installation sends prompts, and where it sends nothing at all.

An address is looked at as its name is resolved, and again as its socket is made. There is no other way out to a
provider: redirects are not followed, and no proxy is taken from the environment.
"""

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from yarl import URL

from services.meshkit.outward.addresses import AddressRefused, AddressRule

#: This machine.
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
#: Addresses of listed hosts that are remembered until their sockets are made.
_MOST_ADDRESSES: Final = 4096


class Egress(StrEnum):
    """How far prompts may go."""

    #: To this machine and the networks of the mesh.
    MESH = "mesh"
    #: There, and to the hosts that are listed.
    LISTED = "listed"
    #: Wherever deployments are.
    ANY = "any"


class EgressRule:
    """Says which addresses may be connected to.

    Args:
        networks: of the mesh; this machine belongs to it anyway.
        hosts: names that are listed. Their addresses have to be public ones, or in the mesh.
    """

    def __init__(
        self, egress: Egress, *, networks: Sequence[IPv4Network | IPv6Network] = (), hosts: Sequence[str] = ()
    ) -> None:
        self._egress = egress
        self._networks = (*_LOOPBACK, *networks)
        self._hosts = frozenset(_plain(host) for host in hosts) if egress is Egress.LISTED else frozenset[str]()
        self._public = AddressRule()
        #: Addresses at which listed hosts were found: a socket is made for a number, whatever name led to it.
        self._found = OrderedDict[str, None]()

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused unless the address may be connected to; as a socket is made, it is its own host."""
        if self._egress is Egress.ANY or self._in_mesh(address) or (host == address and address in self._found):
            return
        if _plain(host) not in self._hosts:
            raise AddressRefused(f"this installation sends nothing to {host}")
        self._public.check(host, address)
        self._found[address] = None
        self._found.move_to_end(address)
        if len(self._found) > _MOST_ADDRESSES:
            self._found.popitem(last=False)

    def refused_redirect(self, asked: str, location: str) -> str:
        """Gives the host that an answer points to, if it may not be asked as far as its name tells; else nothing.

        Nothing is looked up: a redirect is not followed anyway.
        """
        target = URL(asked).join(URL(location)).host or ""
        host = _plain(target)
        known = host == URL(asked).host or host in self._hosts or self._in_mesh(host)
        return "" if self._egress is Egress.ANY or known else target

    def _in_mesh(self, address: str) -> bool:
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)


class NamedByTenants:
    """Says which addresses may be connected to that tenants name: those that the installation allows, public ones only.

    Args:
        addresses: may allow private ones, too, in closed networks.
    """

    def __init__(self, egress: EgressRule, addresses: AddressRule) -> None:
        self._egress = egress
        self._addresses = addresses

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused unless both allow it."""
        self._egress.check(host, address)
        self._addresses.check(host, address)


def _plain(host: str) -> str:
    return host.rstrip(".").lower()
