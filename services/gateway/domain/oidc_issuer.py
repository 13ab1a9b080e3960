"""An OpenID Connect issuer whose word a tenant takes about who somebody is."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from services.gateway.domain.held_roles import check_held, held_roles
from services.gateway.domain.user import User, checked_roles, to_domain
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid

ISSUER_PREFIX: Final = "issuer"
MAX_TRUSTED_DOMAINS: Final = 20
_MAX_TEXT: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcIssuer:
    """One issuer of one tenant, with the client id that is registered there."""

    id: UUID
    tenant: TenantId
    #: As in the claim `iss`, to the letter.
    issuer: str
    client_id: str
    trusted_domains: frozenset[str] = frozenset()
    default_roles: frozenset[Role] = frozenset()
    #: What its maker could give away. Whoever controls an issuer can sign in as any user of the tenant, so it gives no
    #: role beyond these, whatever roles the user has or gets later.
    most_roles: frozenset[Role]
    create_time: datetime

    @property
    def name(self) -> str:
        """Its id as callers know it: `issuer_…`."""
        return from_uuid(ISSUER_PREFIX, self.id)

    @property
    def is_of_operator(self) -> bool:
        """Tells whether an operator of the installation added it."""
        return Role.OPERATOR in self.most_roles

    def trusts(self, email: str) -> bool:
        """Tells whether somebody with this verified address needs no invitation."""
        return email.rpartition("@")[2] in self.trusted_domains

    def roles_of(self, user: User) -> frozenset[Role]:
        """Gives the roles in which a user acts who signed in here; empty for one who cannot act at all."""
        return user.roles & self.most_roles


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerWish:
    """What somebody wants a new issuer to be."""

    issuer: str
    client_id: str
    trusted_domains: tuple[str, ...]
    default_roles: tuple[Role, ...]

    def issuer_of(self, by: Principal, *, number: UUID, now: datetime) -> OidcIssuer:
        """Makes the issuer as wished, by somebody whose wish was checked."""
        return OidcIssuer(
            id=number,
            tenant=by.tenant,
            issuer=self.issuer,
            client_id=self.client_id,
            trusted_domains=frozenset(self.trusted_domains),
            default_roles=frozenset(self.default_roles),
            most_roles=held_roles(by),
            create_time=now,
        )

    def checked(self, *, by: Principal) -> "IssuerWish":
        """Returns the wish, its domains in lower case, if `by` may have it.

        An issuer can say of anybody that they are one of the tenant's users, administrators included; so who adds one
        must be able to do what an administrator can. What they cannot do beyond that, it gives nobody: `most_roles`.
        Raises: Invalid, RoleNotHeld.
        """
        check_issuer(self.issuer)
        if not 1 <= len(self.client_id) <= _MAX_TEXT or not self.client_id.isprintable():
            raise Invalid("client_id", f"must be 1 to {_MAX_TEXT} printable characters")
        if len(self.trusted_domains) > MAX_TRUSTED_DOMAINS:
            raise Invalid("trusted_domains", f"must be at most {MAX_TRUSTED_DOMAINS}")
        domains = [to_domain(one, field=f"trusted_domains[{at}]") for at, one in enumerate(self.trusted_domains)]
        check_held((Role.ADMIN,), by)
        return IssuerWish(
            issuer=self.issuer,
            client_id=self.client_id,
            trusted_domains=tuple(dict.fromkeys(domains)),
            default_roles=self._checked_defaults(by),
        )

    def _checked_defaults(self, by: Principal) -> tuple[Role, ...]:
        if not self.trusted_domains:
            if self.default_roles:
                raise Invalid("default_roles", "must be empty without trusted_domains: who is invited has own roles")
            return ()
        if Role.OPERATOR in self.default_roles:
            raise Invalid("default_roles", "must not hold ROLE_OPERATOR; give it to single users")
        return tuple(sorted(checked_roles(self.default_roles, by=by, field="default_roles")))


def check_issuer(issuer: str) -> None:
    """Refuses what cannot be an issuer. Raises: Invalid."""
    sentence = (
        f"must be an address such as https://accounts.example.com, at most {_MAX_TEXT} characters, without user, "
        "query or fragment; http:// is for loopback addresses only"
    )
    if not 1 <= len(issuer) <= _MAX_TEXT or not issuer.isascii() or not issuer.isprintable() or " " in issuer:
        raise Invalid("issuer", sentence)
    try:
        parts = urlsplit(issuer)
        port = parts.port
    except ValueError as error:
        raise Invalid("issuer", sentence) from error
    plain = "@" not in parts.netloc and not set("?#\\") & set(issuer) and port != 0
    if not plain or not parts.hostname or not (parts.scheme == "https" or is_loopback_http(issuer)):
        raise Invalid("issuer", sentence)


def is_loopback_http(url: str) -> bool:
    """Tells whether an address is `http://` on this machine, whatever a name server says."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False
