"""Seals and opens payloads with the data keys of tenants.

An envelope is version (1 byte) ‖ key id (16) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag (16): 45 bytes more than
the content. Tenant and key id are authenticated with the caller's `aad`, so an envelope opens in its own place only.
"""

import asyncio
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.errors import KeyDestroyed, KeyNotLoaded, KeyServiceAway, SealBroken
from services.meshkit.crypto.ports import DataKeys, KeyWrapper
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: What an envelope adds to its content.
ENVELOPE_BYTES: Final = 45
#: Longest content: what AES-GCM of the library takes in one piece.
MAX_PLAINTEXT_BYTES: Final = 2**31 - 1
_VERSION: Final = b"\x01"
_HEAD_BYTES: Final = 17
NONCE_BYTES: Final = 12
#: What the key of digests is derived from, together with the data key.
_DIGEST_KEY: Final = b"comitia.digest.v1"
#: Random nonces are safe for 2**32 messages of one key, all processes together (NIST SP 800-38D, 8.3). We stop at half.
_MESSAGES_PER_KEY: Final = 2**31
#: So many of them a process takes at a time. What it does not use, it loses; a lost block costs nothing.
_MESSAGES_AT_A_TIME: Final = 2**16
#: A key that was fresh at `load` stays usable for the caller's next synchronous calls.
_GRACE_SECONDS: Final = 5.0

log = logger(__name__)


@dataclass(slots=True)
class _DataKey:
    id: UUID
    #: Version and key id, as they stand at the start of the envelope.
    head: bytes
    cipher: AESGCM
    #: For digests that only those who have the key can make.
    digest_key: bytes
    #: On the monotonic clock; after it the store is asked again.
    stale_at: float
    #: On the monotonic clock: when the key service last opened it.
    unwrapped_at: float
    #: Messages that this process may still seal with it.
    left: int = 0


class KeyRing:
    """Holds the data keys of the tenants that are busy, at most `capacity`, each for at most `ttl`.

    A tenant's key is replaced after 90 days or 2**31 messages: the new one seals, the old ones go on opening.

    Args:
        capacity: most keys in memory; the one not used for longest goes first.
        ttl: so long (and 5 s more) after a key was destroyed in the store it may still be used here, unless `forget` is
            called before.
        unwrap_ttl: so long a key in memory is used without the key service; asked again after half of it.
        longest_use: age at which a key no longer seals.
    """

    def __init__(
        self,
        keys: DataKeys,
        wrapper: KeyWrapper,
        *,
        clock: Clock,
        ids: IdSource,
        capacity: int = 4_096,
        ttl: timedelta = timedelta(seconds=60),
        unwrap_ttl: timedelta = timedelta(hours=1),
        longest_use: timedelta = timedelta(days=90),
    ) -> None:
        self._store = keys
        self._wrapper = wrapper
        self._clock = clock
        self._ids = ids
        self._capacity = capacity
        self._ttl = ttl.total_seconds()
        self._unwrap_ttl = unwrap_ttl.total_seconds()
        self._longest_use = longest_use
        self._keys: OrderedDict[tuple[TenantId, UUID], _DataKey] = OrderedDict()
        #: Which of them seal, by the number that the tenant's id is: the hash of a number costs nothing.
        self._sealing: dict[int, _DataKey] = {}
        self._loading: dict[TenantId, asyncio.Lock] = {}

    async def seal(self, tenant: TenantId, plaintext: bytes, *, aad: bytes) -> bytes:
        """Seals content for a tenant; makes the tenant's first key if there is none.

        Args:
            aad: names the place of the envelope (table, row, column); the same is needed to open it.
        """
        await self.load(tenant)
        return self.seal_sync(tenant, plaintext, aad=aad)

    async def open(self, tenant: TenantId, envelope: bytes, *, aad: bytes) -> bytes:
        """Opens an envelope.

        Raises: SealBroken: damaged, or sealed for another tenant or place. KeyDestroyed: its key is gone.
        """
        key_id = _key_id(envelope)
        if self._fresh(tenant, key_id) is None:
            await self._fetch(tenant, key_id)
        return self.open_sync(tenant, envelope, aad=aad)

    async def load(self, *tenants: TenantId) -> None:
        """Makes sure that `seal_sync` works for these tenants in the next moments, before an await of the caller's."""
        for tenant in tenants:
            if not self.is_loaded(tenant):
                await self._load(tenant)

    def seal_sync(self, tenant: TenantId, plaintext: bytes, *, aad: bytes) -> bytes:
        """Seals like `seal`, without waiting, for hot paths that called `load` before.

        Raises: KeyNotLoaded: they did not.
        """
        return self.sealer(tenant).seal(secrets.token_bytes(NONCE_BYTES), plaintext, aad=aad)

    def sealer(self, tenant: TenantId) -> "Sealer":
        """Gives what seals many envelopes of a tenant in a row; to be used before the next await.

        Raises: KeyNotLoaded: `load` was not called before.
        """
        key = self._sealing_key(tenant, grace=_GRACE_SECONDS)
        if key is None:
            raise KeyNotLoaded("load the tenant's key before sealing without waiting")
        return Sealer(key, tenant)

    def open_sync(self, tenant: TenantId, envelope: bytes, *, aad: bytes) -> bytes:
        """Opens like `open`, without waiting, when the key is in memory.

        Raises: KeyNotLoaded: it is not. SealBroken: as `open`.
        """
        key = self._fresh(tenant, _key_id(envelope), grace=_GRACE_SECONDS)
        if key is None:
            raise KeyNotLoaded("the key of this envelope is not in memory")
        nonce = envelope[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES]
        try:
            return key.cipher.decrypt(nonce, envelope[_HEAD_BYTES + NONCE_BYTES :], _bound(key.head, tenant, aad))
        except InvalidTag as cause:
            raise SealBroken("the payload is damaged or was moved from another tenant or place") from cause

    def digest_sync(self, tenant: TenantId, content: bytes) -> bytes:
        """Names content so that nobody without the tenant's key can tell what it is, 32 bytes.

        The same content has the same name until the tenant's key is replaced. Raises: KeyNotLoaded: as `seal_sync`.
        """
        key = self._sealing_key(tenant, grace=_GRACE_SECONDS)
        if key is None:
            raise KeyNotLoaded("load the tenant's key before naming content without waiting")
        return hmac.digest(key.digest_key, content, "sha256")

    def forget(self, tenant: TenantId) -> None:
        """Takes a tenant's keys out of memory; those that were destroyed in the store open nothing from now on."""
        self._sealing.pop(tenant.int, None)
        for held in [key for key in self._keys if key[0] == tenant]:
            del self._keys[held]

    def tenants(self) -> frozenset[TenantId]:
        """Lists the tenants of whom keys are in memory."""
        return frozenset(tenant for tenant, _ in self._keys)

    def show(self, service: str) -> None:
        """Has the metrics page show how many keys are in memory."""
        metrics.show_size(f"{service}.data_keys", self._keys)

    def is_loaded(self, tenant: TenantId) -> bool:
        """Says whether `load` would find the tenant's key in memory."""
        # Asked for every write of every run: those that are sealed with keep a key from being forgotten.
        key = self._sealing.get(tenant.int)
        return key is not None and key.left > 0 and key.stale_at > self._clock.monotonic()

    def _sealing_key(self, tenant: TenantId, *, grace: float = 0.0) -> _DataKey | None:
        key = self._sealing.get(tenant.int)
        return None if key is None else self._fresh(tenant, key.id, grace=grace)

    def _fresh(self, tenant: TenantId, key_id: UUID, *, grace: float = 0.0) -> _DataKey | None:
        key = self._keys.get((tenant, key_id))
        if key is None or key.stale_at + grace <= self._clock.monotonic():
            return None
        self._keys.move_to_end((tenant, key_id))
        return key

    async def _load(self, tenant: TenantId) -> None:
        """Fetches or makes the tenant's sealing key; callers at the same time wait for one."""
        lock = self._loading.setdefault(tenant, asyncio.Lock())
        try:
            async with lock:
                if not self.is_loaded(tenant):
                    key = await self._sealer(tenant)
                    # It may have been forgotten meanwhile.
                    if self._keys.get((tenant, key.id)) is key:
                        self._sealing[tenant.int] = key
        finally:
            if not lock.locked():
                self._loading.pop(tenant, None)

    async def _sealer(self, tenant: TenantId) -> _DataKey:
        """Takes a key into memory that may seal now, a new one where it must be."""
        found = await self._store.newest(tenant)
        if found is None:
            return await self._make(tenant)
        if found.age >= self._longest_use:
            try:
                return await self._make(tenant)
            except KeyServiceAway:
                # A key of 91 days seals better than none.
                log.warning("an old data key goes on sealing: no new one can be wrapped", key_id=str(found.id))
        key = await self._take(tenant, found.id, found.wrapped)
        if key.left <= 0:
            allotted = await self._store.allot(tenant, found.id, _MESSAGES_AT_A_TIME)
            if allotted is None or allotted > _MESSAGES_PER_KEY:
                return await self._make(tenant)
            key.left += _MESSAGES_AT_A_TIME
        return key

    async def _make(self, tenant: TenantId) -> _DataKey:
        # Two processes may each make one: both stay valid, and both seal with the newer from the next load on.
        key_id, raw = self._ids.uuid(), AESGCM.generate_key(256)
        wrapped = await self._wrapper.wrap(raw, context=data_key_context(tenant, key_id))
        await self._store.add(tenant, key_id, wrapped, messages=_MESSAGES_AT_A_TIME)
        key = self._keep(tenant, key_id, raw)
        key.left = _MESSAGES_AT_A_TIME
        return key

    async def _fetch(self, tenant: TenantId, key_id: UUID) -> None:
        wrapped = await self._store.find(tenant, key_id)
        if wrapped is None:
            self._drop(tenant, key_id)
            raise KeyDestroyed(key_id)
        await self._take(tenant, key_id, wrapped)

    async def _take(self, tenant: TenantId, key_id: UUID, wrapped: bytes) -> _DataKey:
        """Takes a key into memory. One that is there already outlives a key service that is away, for its time."""
        known = self._keys.get((tenant, key_id))
        used_for = 0.0 if known is None else self._clock.monotonic() - known.unwrapped_at
        if known is not None and used_for < self._unwrap_ttl / 2:
            known.stale_at = self._clock.monotonic() + self._ttl
            return known
        try:
            raw = await self._wrapper.unwrap(wrapped, context=data_key_context(tenant, key_id))
        except KeyServiceAway:
            if known is None or used_for >= self._unwrap_ttl:
                raise
            known.stale_at = self._clock.monotonic() + self._ttl
            return known
        return self._keep(tenant, key_id, raw)

    def _keep(self, tenant: TenantId, key_id: UUID, raw: bytes) -> _DataKey:
        now = self._clock.monotonic()
        key = self._keys.get((tenant, key_id))
        if key is None:
            digest_key = hmac.digest(raw, _DIGEST_KEY, "sha256")
            key = _DataKey(key_id, _VERSION + key_id.bytes, AESGCM(raw), digest_key, now + self._ttl, now)
            self._keys[tenant, key_id] = key
        key.stale_at, key.unwrapped_at = now + self._ttl, now
        self._keys.move_to_end((tenant, key_id))
        while len(self._keys) > self._capacity:
            self._drop(*next(iter(self._keys)))
        return key

    def _drop(self, tenant: TenantId, key_id: UUID) -> None:
        key = self._keys.pop((tenant, key_id), None)
        if key is not None and self._sealing.get(tenant.int) is key:
            del self._sealing[tenant.int]


class Sealer:
    """Seals with one key that is at hand. Made by `KeyRing.sealer`."""

    __slots__ = ("_bound", "_key")

    def __init__(self, key: _DataKey, tenant: TenantId) -> None:
        self._key = key
        self._bound = _bound(key.head, tenant, b"")

    def seal(self, nonce: bytes, plaintext: bytes, *, aad: bytes) -> bytes:
        """Seals content.

        Args:
            nonce: `NONCE_BYTES` from the system's source of randomness, for this envelope alone.
            aad: see `KeyRing.seal`.
        """
        if len(plaintext) > MAX_PLAINTEXT_BYTES:
            raise ValueError("content of 2 GiB and more goes to the object store in pieces")
        key = self._key
        # May go below 0 until the next load: the bound has room for what is sealed between two of them.
        key.left -= 1
        return key.head + nonce + key.cipher.encrypt(nonce, plaintext, self._bound + aad)


def _key_id(envelope: bytes) -> UUID:
    if len(envelope) < ENVELOPE_BYTES or envelope[:1] != _VERSION:
        raise SealBroken("the payload is no envelope of ours, or was cut short")
    return UUID(bytes=bytes(envelope[1:_HEAD_BYTES]))


def _bound(head: bytes, tenant: TenantId, aad: bytes) -> bytes:
    """What is authenticated beside the content; head and tenant have a fixed length, so nothing can shift."""
    return head + tenant.bytes + aad


def data_key_context(tenant: TenantId, key_id: UUID) -> bytes:
    """Names the one place in which a wrapped data key opens."""
    return b"comitia.data_key.v1" + tenant.bytes + key_id.bytes
