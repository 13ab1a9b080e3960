"""The law of each tenant as this replica knows it, at most two seconds behind."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger
from services.policy.domain.bundle import NamedBundle
from services.policy.domain.errors import BundleDiffers, NoBundle
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.parse import parse_bundle
from services.policy.rules.shipped import ShippedBundles
from services.policy.usecases.ports import BundleStore, Wakes

log = logger(__name__)

#: Loads of different tenants that may go on at once.
_LOADS: Final = 16
#: Changes that one look takes in; it looks again at once when there are more.
_MOST_CHANGES: Final = 1000

#: Runs a function off the loop.
OffLoop = Callable[[Callable[[], CompiledBundle]], Awaitable[CompiledBundle]]


@dataclass(frozen=True, slots=True)
class Law:
    """A bundle that is law for a tenant."""

    #: `name@version`
    reference: str
    digest: str
    compiled: CompiledBundle
    #: True for a bundle that ships with the mesh, whose expressions are known to be quick.
    shipped: bool


@dataclass(frozen=True, slots=True)
class _Known:
    reference: str
    digest: str


class Laws:
    """Keeps laws ready to judge. A law that is known stays good while the database is away.

    Args:
        off_loop: runs the compiler.
        poll_seconds: how often it looks for changes that no wake told of.
        most_tenants: tenants whose law is remembered; the one that was asked for longest ago is forgotten.
        most_bundles: compiled bundles that are kept, shared by tenants with the same rules.
    """

    def __init__(
        self,
        *,
        store: BundleStore,
        shipped: ShippedBundles,
        wakes: Wakes,
        clock: Clock,
        off_loop: OffLoop,
        poll_seconds: float = 1.0,
        most_tenants: int = 20_000,
        most_bundles: int = 256,
    ) -> None:
        self._store = store
        self._shipped = shipped
        self._wakes = wakes
        self._clock = clock
        self._off_loop = off_loop
        self._poll_seconds = poll_seconds
        self._most_tenants = most_tenants
        self._most_bundles = most_bundles
        self._known: OrderedDict[TenantId, _Known] = OrderedDict()
        self._compiled: OrderedDict[str, CompiledBundle] = OrderedDict()
        #: Digests of bundles that were asked for by name, of a tenant each.
        self._named: OrderedDict[tuple[TenantId, str], str] = OrderedDict()
        self._pinned = {each.bundle.digest: each.compiled for each in shipped.all()}
        self._loading = [asyncio.Lock() for _ in range(_LOADS)]
        #: Number of the last change that was taken in; None before the first look.
        self._seen: int | None = None
        #: Grows when laws are forgotten, so that a load that began before is not kept.
        self._forgotten = 0
        self._look = asyncio.Event()

    def peek(self, tenant: TenantId) -> Law | None:
        """Gives the tenant's law if it is at hand."""
        known = self._known.get(tenant)
        if known is None:
            return None
        pinned = self._pinned.get(known.digest)
        compiled = pinned or self._compiled.get(known.digest)
        if compiled is None:
            return None
        if pinned is None:
            self._compiled.move_to_end(known.digest)
        self._known.move_to_end(tenant)
        return Law(known.reference, known.digest, compiled, shipped=pinned is not None)

    async def of(self, tenant: TenantId) -> Law:
        """Gives the tenant's law.

        Raises: NoBundle: it is not at hand and cannot be loaded.
        """
        law = self.peek(tenant)
        if law is not None:
            return law
        async with self._loading[hash(tenant) % _LOADS]:
            return self.peek(tenant) or await self._load(tenant)

    async def named(self, tenant: TenantId, wanted: NamedBundle) -> Law:
        """Gives a bundle that need not be law, whoever has made it law.

        Raises: BundleNotFound; BundleDiffers: its rules are others than those that were meant; Unavailable.
        """
        reference = f"{wanted.name}@{wanted.version}"
        shipped = self._shipped.find(wanted.name, wanted.version)
        if shipped is not None:
            digest, compiled = shipped.bundle.digest, shipped.compiled
        else:
            # What a tenant stored under a version never changes.
            digest = self._named.get((tenant, reference), "")
            known = self._pinned.get(digest) or self._compiled.get(digest)
            if known is None:
                bundle = await self._store.find(tenant, wanted.name, wanted.version)
                digest, known = bundle.digest, await self._ready_to_judge(bundle.digest, bundle.source)
                self._keep_compiled(digest, known)
                self._named[tenant, reference] = digest
                if len(self._named) > self._most_bundles:
                    self._named.popitem(last=False)
            compiled = known
        if digest != wanted.digest:
            raise BundleDiffers(reference)
        return Law(reference, digest, compiled, shipped=digest in self._pinned)

    def forget(self, tenant: TenantId) -> None:
        """Drops what is known of a tenant's law; the next verdict loads it."""
        self._known.pop(tenant, None)
        self._forgotten += 1

    async def ready(self) -> str | None:
        """Says why no verdicts can be given yet, None once they can."""
        return "the laws of the tenants have not been looked at yet" if self._seen is None else None

    async def __call__(self) -> None:
        """Follows changes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._tick())
            tasks.create_task(self._follow())

    async def _load(self, tenant: TenantId) -> Law:
        began = self._forgotten
        try:
            active = await self._store.active(tenant)
            shipped = self._shipped.default if active is None else self._shipped.find(active.name, active.version)
            if shipped is not None:
                law = Law(shipped.bundle.reference, shipped.bundle.digest, shipped.compiled, shipped=True)
            else:
                assert active is not None
                bundle = await self._store.find(tenant, active.name, active.version)
                compiled = await self._ready_to_judge(bundle.digest, bundle.source)
                law = Law(bundle.reference, bundle.digest, compiled, shipped=bundle.digest in self._pinned)
        except MeshError as cause:
            log.warning("a law could not be loaded", tenant=str(tenant), error=cause.message)
            raise NoBundle from cause
        if self._forgotten == began:
            self._keep(tenant, law)
        return law

    async def _ready_to_judge(self, digest: str, source: str) -> CompiledBundle:
        kept = self._pinned.get(digest) or self._compiled.get(digest)
        if kept is None:
            kept = await self._off_loop(lambda: CompiledBundle(parse_bundle(source).rules))
        return kept

    def _keep(self, tenant: TenantId, law: Law) -> None:
        self._known[tenant] = _Known(law.reference, law.digest)
        self._known.move_to_end(tenant)
        if len(self._known) > self._most_tenants:
            self._known.popitem(last=False)
        self._keep_compiled(law.digest, law.compiled)

    def _keep_compiled(self, digest: str, compiled: CompiledBundle) -> None:
        if digest in self._pinned:
            return
        self._compiled[digest] = compiled
        self._compiled.move_to_end(digest)
        if len(self._compiled) > self._most_bundles:
            self._compiled.popitem(last=False)

    async def _listen(self) -> None:
        async with self._wakes.law_changes() as changes:
            async for _ in changes:
                self._look.set()

    async def _tick(self) -> None:
        while True:
            self._look.set()
            await self._clock.sleep(self._poll_seconds)

    async def _follow(self) -> None:
        away = False
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self.look()
            except MeshError as error:
                if not away:
                    log.warning("changes of law cannot be seen; the last known laws hold", error=error.message)
                away = True
            else:
                away = False

    async def look(self) -> None:
        """Takes in the changes since the last look.

        Raises: MeshError: the database is away.
        """
        if self._seen is None:
            self._seen = await self._store.newest_change()
            self._known.clear()  # what was loaded before the first look may have changed unseen
            self._forgotten += 1
            return
        while True:
            changes = await self._store.changes_since(self._seen, most=_MOST_CHANGES)
            for change in changes:
                known = self._known.get(change.tenant)
                # What was loaded after the change stays: dropping it would leave none if the database went now.
                if known is None or known.reference != change.reference:
                    self.forget(change.tenant)
                self._seen = change.number
            if len(changes) < _MOST_CHANGES:
                return
