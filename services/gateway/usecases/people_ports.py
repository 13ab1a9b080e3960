"""What the use cases about people need from outside."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.gateway.domain.id_token import VerifiedLogin
from services.gateway.domain.oidc_issuer import OidcIssuer
from services.gateway.domain.user import User
from services.gateway.usecases.ports import Tenants, Work
from services.meshkit.core.identity import TenantId


class Users(Protocol):
    """Users within one transaction."""

    async def add(self, user: User) -> None:
        """Stores a new user. Raises: AlreadyExists: somebody with that address is there and not removed."""
        ...

    async def get(self, tenant: TenantId, user: UUID) -> User:
        """Gives a user and keeps it from changing until the transaction ends. Raises: NotFound."""
        ...

    async def with_email(self, tenant: TenantId, email: str) -> User | None:
        """Gives the user with an address: the one who is not removed, else the one removed last."""
        ...

    async def replace(self, user: User) -> None:
        """Stores roles and times of a user."""
        ...

    async def count(self, tenant: TenantId) -> int:
        """Counts the tenant's users who are not removed; nobody else adds one before the transaction ends."""
        ...

    async def bind(self, user: User, login: VerifiedLogin, now: datetime) -> str:
        """Remembers who the user is at an issuer; gives who it was at the first sign-in there."""
        ...


class Issuers(Protocol):
    """Issuers within one transaction."""

    async def add(self, issuer: OidcIssuer) -> None:
        """Stores a new issuer. Raises: AlreadyExists: this issuer with this client id."""
        ...

    async def get(self, tenant: TenantId, issuer: UUID) -> OidcIssuer:
        """Raises: NotFound."""
        ...

    async def remove(self, tenant: TenantId, issuer: UUID) -> OidcIssuer:
        """Removes an issuer and who people are there. Raises: NotFound."""
        ...

    async def count(self, tenant: TenantId) -> int:
        """Counts the tenant's issuers; nobody else adds one before the transaction ends."""
        ...


class Administration(Protocol):
    """Who can administer a tenant."""

    async def others_than(self, user: User, *, now: datetime) -> bool:
        """Tells whether somebody besides `user` can.

        That is a user with the role admin, if the tenant has an issuer to sign in with; or an API key with it, bound to
        no project, narrowed to no scopes, that works for another day at least. Nobody changes that before the
        transaction ends.
        """
        ...


class Revocations(Protocol):
    """Subjects whose tokens from before are refused everywhere within seconds."""

    async def add(self, tenant: TenantId, subject: str, now: datetime) -> None:
        """Refuses tokens of `subject` that were issued until now."""
        ...


class PeopleWork(Work, Protocol):
    """One transaction about people."""

    @property
    def users(self) -> Users: ...
    @property
    def issuers(self) -> Issuers: ...
    @property
    def tenants(self) -> Tenants: ...
    @property
    def administration(self) -> Administration: ...
    @property
    def revocations(self) -> Revocations: ...


class BeginPeopleWork(Protocol):
    """Opens a transaction that sees these tenants."""

    def __call__(self, *tenants: TenantId) -> AbstractAsyncContextManager[PeopleWork]: ...


class LoginDirectory(Protocol):
    """Finds how to sign in to a tenant, before anybody is known."""

    async def issuers_of(self, tenant: str) -> list[OidcIssuer]:
        """Gives the issuers of the tenant with this name, oldest first; none when there is no such tenant."""
        ...


class PeopleReader(Protocol):
    """Reads users and issuers of one tenant."""

    async def users(self, tenant: TenantId, *, after: UUID | None, most: int) -> list[User]:
        """Lists users, newest first, from the one after `after` on."""
        ...

    async def issuers(self, tenant: TenantId, *, after: UUID | None, most: int) -> list[OidcIssuer]:
        """Lists issuers, newest first, from the one after `after` on."""
        ...


class IdTokens(Protocol):
    """Verifies ID tokens."""

    async def verified(self, text: str, *, issuers: Sequence[OidcIssuer]) -> VerifiedLogin:
        """Says who signed in. Takes as long without issuers as with one that did not sign the token.

        Raises: LoginRefused, IssuerUnavailable.
        """
        ...


class TriesIssuers(Protocol):
    """Finds out whether an issuer can be used."""

    async def try_out(self, issuer: OidcIssuer) -> None:
        """Raises: IssuerUnusable."""
        ...
