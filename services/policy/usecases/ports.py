"""What policy needs from the outside."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from services.meshkit.core.identity import TenantId
from services.policy.domain.bundle import Bundle
from services.policy.domain.verdict import Severity
from services.policy.domain.violation import Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBundle:
    """A bundle that is to be stored."""

    bundle: Bundle
    #: Who uploads it.
    by: str


@dataclass(frozen=True, slots=True)
class ActiveLaw:
    """What a tenant made its law."""

    name: str
    version: str

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, order=True)
class LawChange:
    """The latest change of a tenant's law."""

    #: Grows with each activation by any tenant.
    number: int
    tenant: TenantId
    #: What is law since then, `name@version`.
    reference: str


class BundleStore(Protocol):
    """Keeps bundles of tenants, and which one is law. Shipped bundles are not in it, but may be law."""

    async def add(self, tenant: TenantId, new: NewBundle, *, activate: bool, most: int) -> Bundle:
        """Stores a bundle, or finds the same one; makes it law if asked to. All in one transaction.

        Raises: BundleVersionExists: it exists with other rules. TooManyBundles: `most` are stored.
        """
        ...

    async def activate(self, tenant: TenantId, law: ActiveLaw, *, by: str, bundle: Bundle) -> None:
        """Makes a bundle law. The caller knows that it exists, and answers with `bundle`."""
        ...

    async def find(self, tenant: TenantId, name: str, version: str) -> Bundle:
        """Gives one version; without one, the active one of that name, else the highest.

        Raises: BundleNotFound.
        """
        ...

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Bundle]:
        """Lists bundles by name, then version, without their source, from the one after (name, version) on."""
        ...

    async def active(self, tenant: TenantId) -> ActiveLaw | None:
        """Gives what the tenant made its law, None when it never did."""
        ...

    async def newest_change(self) -> int:
        """Gives the number of the last activation by any tenant."""
        ...

    async def changes_since(self, change: int, *, most: int) -> Sequence[LawChange]:
        """Lists the latest change of each tenant whose law changed after that activation, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ViolationFilter:
    """Which violations are wanted; empty means any."""

    run_id: str = ""
    rule: str = ""
    min_severity: Severity | None = None


class ViolationStore(Protocol):
    """Keeps violations, numbered per tenant without gap in the order of their commits."""

    async def add(self, groups: Sequence[Sequence[Violation]]) -> None:
        """Stores violations of any tenants in one transaction; nothing is left when it raises."""
        ...

    async def newest(
        self, tenant: TenantId, wanted: ViolationFilter, *, before: int | None, most: int
    ) -> Sequence[Violation]:
        """Lists violations, newest first, from the one before that sequence on."""
        ...

    async def following(
        self, tenant: TenantId, wanted: ViolationFilter, *, after: int, most: int
    ) -> Sequence[Violation]:
        """Lists violations after a sequence, in order."""
        ...

    async def heads(self, tenants: Iterable[TenantId]) -> dict[TenantId, int]:
        """Gives the last sequence of each tenant that has one."""
        ...


class Wakes(Protocol):
    """Tells other replicas that something changed. May lose anything: who listens also looks now and then."""

    async def law_changed(self) -> None:
        """Tells that a tenant has another law."""
        ...

    async def violations_recorded(self, tenants: Iterable[TenantId]) -> None:
        """Tells that these tenants have new violations."""
        ...

    def law_changes(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Listens for changes of law."""
        ...

    def recorded(self) -> AbstractAsyncContextManager[AsyncIterator[TenantId]]:
        """Listens for tenants with new violations."""
        ...
