"""What the use cases about keys, service accounts and signing keys need from outside."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.service_account import ServiceAccount
from services.gateway.domain.tenant import Tenant
from services.gateway.usecases.people_ports import Revocations
from services.gateway.usecases.ports import ApiKeys, Work
from services.meshkit.core.identity import TenantId


class ChangingKeys(ApiKeys, Protocol):
    """Keys within one transaction that may change them."""

    async def locked(self, tenant: TenantId, key: UUID) -> ApiKey:
        """Gives a key and keeps it from changing until the transaction ends. Raises: NotFound."""
        ...

    async def count(self, tenant: TenantId, now: datetime) -> int:
        """Counts the tenant's keys that work; nobody else adds one before the transaction ends."""
        ...

    async def revoke(self, key: ApiKey) -> None:
        """Stores that a locked key has ended."""
        ...

    async def rotate(self, key: ApiKey) -> None:
        """Stores the secrets of a key."""
        ...

    async def revoke_of(self, account: ServiceAccount, now: datetime) -> Sequence[ApiKey]:
        """Ends all keys of an account that have not ended; gives them."""
        ...


class ServiceAccounts(Protocol):
    """Service accounts within one transaction."""

    async def add(self, account: ServiceAccount) -> None:
        """Stores a new account."""
        ...

    async def get(self, tenant: TenantId, account: UUID) -> ServiceAccount:
        """Gives an account and keeps it from being disabled until the transaction ends. Raises: NotFound."""
        ...

    async def locked(self, tenant: TenantId, account: UUID) -> ServiceAccount:
        """Gives an account and lets nobody else use or change it until the transaction ends. Raises: NotFound."""
        ...

    async def count(self, tenant: TenantId) -> int:
        """Counts the tenant's accounts that work; nobody else adds one before the transaction ends."""
        ...

    async def disable(self, account: ServiceAccount) -> None:
        """Stores that a locked account has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSigningKey:
    """A signing key as it is stored."""

    kid: str
    #: 32 bytes.
    public: bytes
    #: The private half, wrapped.
    sealed: bytes
    sign_time: datetime


class SigningKeys(Protocol):
    """Signing keys within one transaction."""

    async def locked(self) -> Sequence[StoredSigningKey]:
        """Gives all keys, and lets nobody else change them before the transaction ends."""
        ...

    async def add(self, key: StoredSigningKey) -> None:
        """Stores a new key."""
        ...

    async def forget(self, kids: Iterable[str]) -> None:
        """Deletes keys."""
        ...


class IdentityWork(Work, Protocol):
    """One transaction about keys and accounts."""

    @property
    def keys(self) -> ChangingKeys: ...
    @property
    def accounts(self) -> ServiceAccounts: ...
    @property
    def signing_keys(self) -> SigningKeys: ...
    @property
    def revocations(self) -> Revocations: ...


class BeginIdentityWork(Protocol):
    """Opens a transaction that sees these tenants."""

    def __call__(self, *tenants: TenantId) -> AbstractAsyncContextManager[IdentityWork]: ...


class SigningKeyStore(Protocol):
    """Reads signing keys outside of a caller's transaction."""

    async def all(self) -> Sequence[StoredSigningKey]:
        """Gives all keys."""
        ...

    async def add_first(self, key: StoredSigningKey) -> None:
        """Stores a key unless there is one already."""
        ...


class KeySetPublisher(Protocol):
    """Makes public keys known to those who verify tokens."""

    def publish(self, keys: Mapping[str, bytes]) -> None:
        """Replaces what was known; keys are public ones by their ids."""
        ...


class ServiceAccountReader(Protocol):
    """Reads service accounts of one tenant, disabled ones included."""

    async def page(
        self, tenant: TenantId, *, project: str | None, after: UUID | None, most: int
    ) -> list[ServiceAccount]:
        """Lists accounts, newest first, from the one after `after` on; of one project if it is given."""
        ...


class KeyUseStore(Protocol):
    """Remembers when keys were last used."""

    async def keep(self, uses: Mapping[tuple[TenantId, UUID], datetime]) -> None:
        """Stores times; one that is earlier than what is stored changes nothing."""
        ...


class GuardNoun(Enum):
    """What a change that other services must know of is about."""

    KEY = "key"
    TENANT = "tenant"
    REVOKED = "revoked"
    SIGNING_KEY = "signing_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardChange:
    """One change, without what it changed to."""

    version: int
    noun: GuardNoun
    #: Id of the key or tenant, kid of the signing key, or the subject that was revoked.
    about: str
    #: None for signing keys.
    tenant: TenantId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSubject:
    """Tokens that show this subject as it was before `revoke_time` are worth nothing."""

    tenant: TenantId
    subject: str
    revoke_time: datetime


class GuardReader(Protocol):
    """Reads what other services have to know, over all tenants."""

    async def version(self) -> int:
        """Gives the version of the state: the number of the last change."""
        ...

    async def changes(self, *, after: int, most: int) -> list[GuardChange]:
        """Gives what changed after a version, in order."""
        ...

    async def keys(self, ids: Iterable[UUID]) -> list[ApiKey]:
        """Gives keys as they are now, ended ones included."""
        ...

    async def tenants(self, ids: Iterable[UUID]) -> list[Tenant]:
        """Gives tenants as they are now."""
        ...

    async def revoked(self, subjects: Iterable[tuple[TenantId, str]]) -> list[RevokedSubject]:
        """Gives revocations of these subjects."""
        ...

    async def revoked_after(
        self, since: datetime, *, after: tuple[UUID, str] | None, most: int
    ) -> list[RevokedSubject]:
        """Lists revocations since then by tenant and subject, from the one after `after` on."""
        ...

    async def working_keys(self, now: datetime, *, after: UUID | None, most: int) -> list[ApiKey]:
        """Lists keys that work, by id, from the one after `after` on."""
        ...

    async def all_tenants(self, *, after: UUID | None, most: int) -> list[Tenant]:
        """Lists tenants by id, from the one after `after` on."""
        ...

    async def forget_changes(self, before: datetime) -> None:
        """Deletes changes that nobody asks for any more."""
        ...
