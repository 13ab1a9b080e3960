"""Keeps on disk what tenants have registered, for a replica that starts while its database is away."""

import asyncio
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import mkstemp
from typing import Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.registry import Holdings
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.route import Route
from services.inference.usecases.registry_ports import Keys, KnownRegistry, RegistryState
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyServiceAway, SealBroken
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.telemetry.logs import logger

#: What each file begins with; another release that writes it otherwise begins it otherwise.
_MAGIC: Final = b"comitia.inference.registry.v1\n"
_CONTEXT: Final = b"comitia.inference.registry_file.v1"
_NONCE_BYTES: Final = 12
_LENGTH_BYTES: Final = 2
#: A longer one is neither written nor read.
MOST_BYTES: Final = 256 * 1024 * 1024
#: What was heard longer ago is not believed: too much may have been retired since.
MOST_AGE: Final = timedelta(days=7)

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tenant:
    id: UUID
    deployments: dict[str, tuple[DeploymentVersion, ...]]
    routes: dict[str, Route]
    rollouts: dict[str, Rollout]
    unreadable: frozenset[str]
    #: Id of a deployment, number of a version, key.
    keys: tuple[tuple[str, int, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    version: int
    #: What the age of the file goes by: its time on the disk says when it was written or copied.
    heard: datetime
    tenants: tuple[_Tenant, ...]
    #: Rollouts that were taken back and are not durably so.
    owed: tuple[tuple[UUID, Rollout], ...]


class RegistryFile:
    """Implements `KeepsRegistry`. All of the file is sealed with a key of its own, which the installation's seals.

    A file that is damaged, or of another installation, or too old, is refused, said so in the log, and left alone until
    it is written anew.
    """

    def __init__(self, path: Path, wrapper: KeyWrapper, *, clock: Clock) -> None:
        self._path = path
        self._wrapper = wrapper
        self._clock = clock

    async def read(self) -> KnownRegistry | None:
        """See `KeepsRegistry.read`."""
        try:
            raw = await asyncio.to_thread(self._read)
            if raw is None:
                return None
            known = _known(await self._opened(raw))
        except (SealBroken, KeyServiceAway, msgspec.ValidationError, msgspec.DecodeError, OSError) as error:
            log.error("what was known last of models is refused", path=str(self._path), error=repr(error))
            return None
        if self._clock.now() - known.heard > MOST_AGE:
            log.error("what was known last of models is too old to go by", path=str(self._path), heard=str(known.heard))
            return None
        return known

    async def write(self, known: KnownRegistry) -> bool:
        """See `KeepsRegistry.write`."""
        try:
            sealed = await self._sealed(msgspec.msgpack.encode(_body(known)))
            if len(sealed) > MOST_BYTES:
                log.error("what is known of models is too much to be kept", path=str(self._path), bytes=len(sealed))
                return False
            await asyncio.to_thread(self._write, sealed)
        except (KeyServiceAway, OSError) as error:
            log.warning("what is known of models cannot be kept", path=str(self._path), error=repr(error))
            return False
        return True

    async def _sealed(self, body: bytes) -> bytes:
        key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE_BYTES)
        wrapped = await self._wrapper.wrap(key, context=_CONTEXT)
        head = _MAGIC + len(wrapped).to_bytes(_LENGTH_BYTES) + wrapped
        return head + nonce + await asyncio.to_thread(AESGCM(key).encrypt, nonce, body, head)

    async def _opened(self, raw: bytes) -> bytes:
        start = len(_MAGIC) + _LENGTH_BYTES
        if not raw.startswith(_MAGIC) or len(raw) < start:
            raise SealBroken("the file is none of ours")
        end = start + int.from_bytes(raw[len(_MAGIC) : start])
        key = await self._wrapper.unwrap(raw[start:end], context=_CONTEXT)
        nonce, body = raw[end : end + _NONCE_BYTES], raw[end + _NONCE_BYTES :]
        try:
            return await asyncio.to_thread(AESGCM(key).decrypt, nonce, body, raw[:end])
        except (InvalidTag, ValueError) as cause:
            raise SealBroken("the file is damaged") from cause

    def _read(self) -> bytes | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        if found.st_size > MOST_BYTES:
            raise SealBroken("the file is longer than any of ours")
        return self._path.read_bytes()

    def _write(self, sealed: bytes) -> None:
        """Replaces the file in one step, so that no start finds half of it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, beside = mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(self._path)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise


def _body(known: KnownRegistry) -> _Body:
    return _Body(
        version=known.state.version,
        heard=known.heard,
        tenants=tuple(
            _Tenant(
                id=tenant,
                deployments={name: tuple(versions) for name, versions in holdings.deployments.items()},
                routes=dict(holdings.routes),
                rollouts=dict(holdings.rollouts),
                unreadable=holdings.unreadable,
                keys=tuple(
                    (deployment, number, None if key is None else key.reveal())
                    for (deployment, number), key in known.state.keys.get(tenant, {}).items()
                ),
            )
            for tenant, holdings in known.state.holdings.items()
        ),
        owed=known.owed,
    )


def _known(body: bytes) -> KnownRegistry:
    read = msgspec.msgpack.decode(body, type=_Body)
    holdings = {
        TenantId(one.id): Holdings(one.deployments, one.routes, one.rollouts, one.unreadable) for one in read.tenants
    }
    keys: dict[TenantId, Keys] = {
        TenantId(one.id): {
            (deployment, number): None if key is None else Secret(key) for deployment, number, key in one.keys
        }
        for one in read.tenants
    }
    state = RegistryState(version=read.version, whole=True, holdings=holdings, keys=keys)
    owed = tuple((TenantId(tenant), rollout) for tenant, rollout in read.owed)
    return KnownRegistry(state=state, owed=owed, heard=read.heard)
