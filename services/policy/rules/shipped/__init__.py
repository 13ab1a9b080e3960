"""The bundles that ship with the mesh, one file each, and the one that is law where no other is."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from services.policy.domain.bundle import Bundle, BundleId, parse_version
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.parse import parse_bundle

#: The name that belongs to these bundles in every tenant.
SHIPPED_NAME: Final = "ground"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A shipped bundle, ready to judge."""

    bundle: Bundle
    compiled: CompiledBundle


class ShippedBundles:
    """Versions of the ground bundle, oldest first."""

    def __init__(self, versions: tuple[Shipped, ...]) -> None:
        self._versions = versions

    @property
    def default(self) -> Shipped:
        """The newest: law of a tenant that made no other."""
        return self._versions[-1]

    def all(self) -> tuple[Shipped, ...]:
        """Gives every version, oldest first."""
        return self._versions

    def find(self, name: str, version: str) -> Shipped | None:
        """Gives one version, None when there is no such."""
        for shipped in self._versions:
            if (shipped.bundle.name, shipped.bundle.version) == (name, version):
                return shipped
        return None


def load_shipped() -> ShippedBundles:
    """Reads and compiles the files beside this module. A fault in one is our bug and raises as for anybody's."""
    versions = [
        _load(file.read_text(encoding="utf-8")) for file in files(__name__).iterdir() if file.name.endswith(".yaml")
    ]
    versions.sort(key=lambda shipped: parse_version(shipped.bundle.version, field="version"))
    return ShippedBundles(tuple(versions))


def _load(source: str) -> Shipped:
    parsed = parse_bundle(source)
    assert parsed.name == SHIPPED_NAME
    assert parsed.version is not None
    bundle = Bundle(
        id=BundleId(uuid5(NAMESPACE_URL, f"comitia:bundle:{parsed.name}@{parsed.version}")),
        name=parsed.name,
        version=parsed.version,
        digest=parsed.digest,
        source=source,
        rule_count=len(parsed.rules),
    )
    return Shipped(bundle, CompiledBundle(parsed.rules))
