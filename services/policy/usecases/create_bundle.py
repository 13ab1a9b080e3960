"""Stores a version of a bundle, and makes it law unless told otherwise."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.core.once import nothing_to_repeat
from services.policy.domain.bundle import Bundle, BundleId, check_bundle_name, parse_version
from services.policy.domain.errors import BundleVersionExists
from services.policy.rules.parse import ParsedBundle, parse_bundle
from services.policy.rules.shipped import SHIPPED_NAME, ShippedBundles
from services.policy.usecases.activate_bundle import ActivateBundle
from services.policy.usecases.ports import BundleStore, NewBundle

#: Runs the parser off the loop.
ParseOffLoop = Callable[[Callable[[], ParsedBundle]], Awaitable[ParsedBundle]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCommand:
    """A bundle as a caller sends it."""

    principal: Principal
    #: Empty when the source names it; the same for the version.
    name: str
    version: str
    source: str
    keep_inactive: bool


class CreateBundle:
    """Parses a bundle and stores it. The same rules under the same name and version are the same bundle."""

    def __init__(
        self,
        *,
        store: BundleStore,
        shipped: ShippedBundles,
        activate: ActivateBundle,
        parse_off_loop: ParseOffLoop,
        clock: Clock,
        ids: IdSource,
        most_bundles: int,
    ) -> None:
        self._store = store
        self._shipped = shipped
        self._activate = activate
        self._parse_off_loop = parse_off_loop
        self._clock = clock
        self._ids = ids
        self._most_bundles = most_bundles

    async def __call__(self, command: CreateCommand) -> Bundle:
        """Raises: BundleFaulty, RegexRefused, BundleEmpty, BundleVersionExists, TooManyBundles."""
        parsed = await self._parse_off_loop(lambda: parse_bundle(command.source))
        name = check_bundle_name(_agreed("name", command.name, parsed.name), field="name")
        version = _agreed("version", command.version, parsed.version)
        parse_version(version, field="version")
        note(
            target=f"{name}@{version}",
            details={"digest": parsed.digest, "rules": len(parsed.rules), "active": not command.keep_inactive},
        )
        if name == SHIPPED_NAME:
            return await self._shipped_again(command, version, parsed.digest)
        bundle = Bundle(
            id=BundleId(self._ids.uuid()),
            name=name,
            version=version,
            digest=parsed.digest,
            source=command.source,
            rule_count=len(parsed.rules),
            created=self._clock.now(),
        )
        principal = command.principal
        activate = not command.keep_inactive
        new = NewBundle(bundle=bundle, by=principal.subject)
        stored = await self._store.add(principal.tenant, new, activate=activate, most=self._most_bundles)
        if activate:
            await self._activate.tell(principal.tenant)
        return stored

    async def _shipped_again(self, command: CreateCommand, version: str, digest: str) -> Bundle:
        shipped = self._shipped.find(SHIPPED_NAME, version)
        if shipped is None:
            raise Invalid("name", f"{SHIPPED_NAME!r} is the bundle that ships with the mesh; choose another name")
        if shipped.bundle.digest != digest:
            raise BundleVersionExists(shipped.bundle.reference)
        if command.keep_inactive:
            nothing_to_repeat()
            return shipped.bundle
        await self._activate(command.principal, SHIPPED_NAME, version)
        return replace(shipped.bundle, active=True)


def _agreed(field: str, asked: str, named: str | None) -> str:
    """Takes what the request or the source says; both, when they say the same."""
    if asked and named and asked != named:
        raise Invalid(field, f"is {asked!r} here and {named!r} in the source; leave one of them out")
    chosen = asked or named
    if not chosen:
        raise Invalid(field, f"is required: give it here or as `{field}:` in the source")
    return chosen
