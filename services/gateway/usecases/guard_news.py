"""What other services have to know of revocations, keys and tenants: as a whole, and change by change."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.tenant import Tenant
from services.gateway.usecases.identity_ports import GuardChange, GuardNoun, GuardReader, RevokedSubject
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Exhausted, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

#: Changes that one look takes in; it looks again at once when there are more.
_MOST_CHANGES: Final = 500
#: Rows of one message of a whole state.
_PAGE: Final = 500
#: Notes kept for services that come back after a break; who missed more gets the whole state.
_KEPT: Final = 4_096
#: Tokens that were issued before a revocation have ended by then.
_REVOKED_FOR: Final = timedelta(minutes=17)
#: Changes are kept this long in the database.
_CHANGES_FOR: Final = timedelta(hours=1)
_HEARTBEAT_SECONDS: Final = 2.0

log = logger(__name__)


class TooManyGuardWatches(Exhausted):
    """So many services watch the guard already. Ask another replica of the gateway."""

    reason = "TOO_MANY_WATCHES"

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} services watch already; ask another replica of the gateway")


@dataclass(frozen=True, slots=True)
class EndedKey:
    """A key that no longer works."""

    id: UUID
    tenant: TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardNote:
    """One message: what is so as of `version`."""

    version: int
    #: True when a whole state begins.
    reset: bool = False
    #: True when all that belongs to `version` has been said.
    complete: bool = True
    keys: Sequence[ApiKey] = ()
    ended_keys: Sequence[EndedKey] = ()
    revoked: Sequence[RevokedSubject] = ()
    tenants: Sequence[Tenant] = ()


class GuardNews:
    """Follows the changes of all replicas of the gateway, and tells who watches. Background work.

    Args:
        poll_seconds: how often it looks for changes that were made elsewhere.
        most: services that may watch this replica.
    """

    def __init__(self, reader: GuardReader, *, clock: Clock, poll_seconds: float = 0.25, most: int = 500) -> None:
        self._reader = reader
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._most = most
        #: Version up to which changes were taken in; None before the first look.
        self._version: int | None = None
        #: What `_kept` goes on from.
        self._base = 0
        self._kept: deque[GuardNote] = deque()
        self._bells: set[asyncio.Event] = set()
        self._look_now = asyncio.Event()
        self._signing_keys: list[Callable[[], None]] = []

    def wake(self) -> None:
        """Has it look at once."""
        self._look_now.set()

    def when_signing_keys_change(self, listener: Callable[[], None]) -> None:
        """Has `listener` called when some replica made a signing key."""
        self._signing_keys.append(listener)

    async def __call__(self) -> None:
        """Follows until cancelled."""
        away = False
        pruned = self._clock.monotonic()
        while True:
            try:
                await self.look()
                if self._clock.monotonic() - pruned > _CHANGES_FOR.total_seconds() / 4:
                    pruned = self._clock.monotonic()
                    await self._reader.forget_changes(self._clock.now() - _CHANGES_FOR)
                away = False
            except MeshError as error:
                if not away:
                    log.warning("changes of keys and tenants cannot be seen right now", error=error.message)
                away = True
            self._look_now.clear()
            await self._pause()

    async def look(self) -> None:
        """Takes in what changed since the last look. Raises: MeshError: the database is away."""
        if self._version is None:
            self._version = self._base = await self._reader.version()
            self._ring()
            return
        while True:
            changes = await self._reader.changes(after=self._version, most=_MOST_CHANGES)
            if changes:
                self._keep(await self._note(changes))
                if any(change.noun is GuardNoun.SIGNING_KEY for change in changes):
                    for listener in self._signing_keys:
                        listener()
            if len(changes) < _MOST_CHANGES:
                return

    async def watch(self, after_version: int) -> AsyncGenerator[GuardNote]:
        """Gives what changed after a version, and what is so altogether where that is not known any more.

        Says at least every 2 s that nothing changed. Raises: TooManyGuardWatches; MeshError: the database is away.
        """
        with self._bell() as bell:
            while self._version is None:
                await bell.wait()
                bell.clear()
            position = after_version
            if not self._base <= position <= self._version:
                async for note in self._whole():
                    position = note.version
                    yield note
            else:
                yield GuardNote(version=position)
            while position >= self._base:  # who falls behind by more than is kept comes again for the whole state
                for note in [note for note in self._kept if note.version > position]:
                    position = note.version
                    yield note
                if not await self._rung(bell):
                    yield GuardNote(version=position)

    async def _whole(self) -> AsyncGenerator[GuardNote]:
        """Reads everything. Changes meanwhile are in it or come after it, and coming twice does no harm."""
        version = await self._reader.version()
        open_note = GuardNote(version=version, complete=False)
        yield replace(open_note, reset=True)
        now = self._clock.now()
        place: tuple[UUID, str] | None = None
        while revoked := await self._reader.revoked_after(now - _REVOKED_FOR, after=place, most=_PAGE):
            yield replace(open_note, revoked=revoked)
            place = revoked[-1].tenant, revoked[-1].subject
        after: UUID | None = None
        while tenants := await self._reader.all_tenants(after=after, most=_PAGE):
            yield replace(open_note, tenants=tenants)
            after = tenants[-1].id
        after = None
        while keys := await self._reader.working_keys(now, after=after, most=_PAGE):
            yield replace(open_note, keys=keys)
            after = keys[-1].id
        yield replace(open_note, complete=True)

    async def _note(self, changes: Sequence[GuardChange]) -> GuardNote:
        """Reads what the changes changed to."""
        by_noun: dict[GuardNoun, list[GuardChange]] = {noun: [] for noun in GuardNoun}
        for change in changes:
            by_noun[change.noun].append(change)
        tenants_of_keys = {
            UUID(change.about): change.tenant for change in by_noun[GuardNoun.KEY] if change.tenant is not None
        }
        tenant_ids = {UUID(change.about) for change in by_noun[GuardNoun.TENANT]}
        subjects = {(change.tenant, change.about) for change in by_noun[GuardNoun.REVOKED] if change.tenant is not None}
        now = self._clock.now()
        keys = await self._reader.keys(tenants_of_keys) if tenants_of_keys else []
        working = {key.id: key for key in keys if key.works(now)}
        return GuardNote(
            version=changes[-1].version,
            keys=tuple(working.values()),
            ended_keys=tuple(EndedKey(key, tenant) for key, tenant in tenants_of_keys.items() if key not in working),
            revoked=await self._reader.revoked(subjects) if subjects else (),
            tenants=await self._reader.tenants(tenant_ids) if tenant_ids else (),
        )

    def _keep(self, note: GuardNote) -> None:
        self._version = note.version
        self._kept.append(note)
        if len(self._kept) > _KEPT:
            self._base = self._kept.popleft().version
        self._ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.set()

    @contextmanager
    def _bell(self) -> Generator[asyncio.Event]:
        if len(self._bells) >= self._most:
            raise TooManyGuardWatches(self._most)
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    async def _rung(self, bell: asyncio.Event) -> bool:
        """Waits for news; False when it is time to say that there are none."""
        try:
            async with asyncio.timeout(_HEARTBEAT_SECONDS):
                await bell.wait()
        except TimeoutError:
            return False
        bell.clear()
        return True

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._look_now.wait()
        except TimeoutError:
            return
