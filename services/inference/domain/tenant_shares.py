"""Who makes room in a memory that tenants share: whoever has more of it than an even share."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from services.meshkit.core.identity import TenantId

Key = TypeVar("Key", bound=Hashable)


class _Share(Generic[Key]):
    def __init__(self) -> None:
        #: What is kept and its size, least recently used first.
        self.kept: Final = OrderedDict[Key, int]()
        self.bytes = 0


class TenantShares(Generic[Key]):
    """Counts what is kept for each tenant. One alone may fill all of it, and gives room as soon as others need it.

    Args:
        most_bytes: of all tenants together.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._of: dict[TenantId, _Share[Key]] = {}
        self.bytes = 0

    def add(self, tenant: TenantId, key: Key, size: int) -> None:
        """Takes in what a tenant keeps from now on."""
        share = self._of.setdefault(tenant, _Share())
        share.kept[key] = size
        share.bytes += size
        self.bytes += size

    def used(self, tenant: TenantId, key: Key) -> None:
        """Has what was used go later."""
        self._of[tenant].kept.move_to_end(key)

    def remove(self, tenant: TenantId, key: Key) -> None:
        """Takes out what is kept no more."""
        share = self._of[tenant]
        size = share.kept.pop(key)
        share.bytes -= size
        self.bytes -= size
        if not share.kept:
            del self._of[tenant]

    def too_much(self, tenant: TenantId) -> tuple[TenantId, Key] | None:
        """Gives what has to go, whose it is with it, after a tenant has added something; None: there is room.

        What the tenant used least recently itself, if it has an even share or more, else what whoever has most did.
        """
        if self.bytes <= self._most_bytes:
            return None
        own = self._of.get(tenant)
        if own is not None and own.bytes * len(self._of) >= self._most_bytes:
            whose = tenant
        else:
            whose = max(self._of, key=lambda one: self._of[one].bytes)
        return whose, next(iter(self._of[whose].kept))

    def oldest(self, tenant: TenantId) -> Key:
        """Gives what a tenant used least recently."""
        return next(iter(self._of[tenant].kept))

    def count(self, tenant: TenantId) -> int:
        """Counts what a tenant keeps."""
        share = self._of.get(tenant)
        return 0 if share is None else len(share.kept)
