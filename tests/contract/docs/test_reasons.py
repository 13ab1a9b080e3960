"""The reasons of refusals stand in the contracts: a caller reads there what it may meet, and meets nothing else."""

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import services
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.errors import STATUS_OF

PROTOS: Final = Path(__file__).parents[3] / "protos" / "comitia"
_NAMED: Final = re.compile(r"\b([A-Z][A-Z_]+)/([A-Z][A-Z0-9_]+)\b")
#: Never heard by a caller, and why.
WITHIN: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("ADDRESS_TAKEN", "BOOTSTRAP_KEY_DIFFERS", "CERTIFICATE_UNUSABLE", "KEK_FILE_UNSAFE", "KEY_SERVICE_SETTINGS"),
        "ends a start",
    ),
    **dict.fromkeys(("ADAPTER_UNUSABLE", "KEY_UNREADABLE", "WEIGHTS_MISSING", "WEIGHTS_UNREADABLE"), "ends a start"),
    **dict.fromkeys(("AUDIT_FEED_MALFORMED", "HEAD_STORE_DAMAGED"), "an alarm of the chain"),
    **dict.fromkeys(("BUS_MESSAGE_TOO_LARGE", "BUS_SUBJECT_UNKNOWN"), "of work without a caller"),
    **dict.fromkeys(
        ("LOCAL_EMBEDDER_BUSY", "LOCAL_MODEL_BUSY", "PROVIDER_FAILED"), "another model is tried, or told of"
    ),
    **dict.fromkeys(("VECTORS_UNAVAILABLE", "VECTOR_SPACE_MISSING"), "similarity is left out"),
    "FAILPOINT": "armed by tests only",
    "KEY_NOT_LOADED": "a bug that the type checker cannot see",
    "REMOTE_ERROR": "has the reason that the neighbour gave",
    **dict.fromkeys(("DATABASE_OWNED_BY_ANOTHER", "TABLE_IN_USE"), "ends a migration"),
    "STORAGE_QUOTA_EXCEEDED": "shown as why a run is parked",
    "TENANT_NOT_DELETING": "the gateway asks again",
}


def errors(kind: type[MeshError] = MeshError) -> Iterator[type[MeshError]]:
    """Gives every error of the services that has a reason of its own."""
    for derived in kind.__subclasses__():
        if derived.__module__.startswith("services.") and "reason" in vars(derived):
            yield derived
        yield from errors(derived)


def raised() -> dict[str, set[str]]:
    """Gives what each service, or `meshkit` for all, refuses with: `STATUS/REASON`."""
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for error in errors():
        if error.reason not in WITHIN and not error.__name__.startswith("_"):
            found[error.__module__.split(".")[1]].add(f"{STATUS_OF[error.kind].name}/{error.reason}")
    return found


def named(service: str) -> set[str]:
    """Gives what the comments of a service's contracts name, or those of `common`."""
    texts = (path.read_text(encoding="utf-8") for path in sorted((PROTOS / service).rglob("*.proto")))
    statuses = {status.name for status in STATUS_OF.values()}
    return {f"{status}/{reason}" for text in texts for status, reason in _NAMED.findall(text) if status in statuses}


def test_every_reason_of_a_service_stands_in_its_contracts() -> None:
    general = named("common")
    missing = {
        service: sorted(reasons - general - (set() if service == "meshkit" else named(service)))
        for service, reasons in raised().items()
    }
    assert {service: reasons for service, reasons in missing.items() if reasons} == {}


def test_every_reason_in_a_contract_is_one_that_some_service_has() -> None:
    # Not always the service's own: what a neighbour refuses is passed on as it is.
    found = set[str]().union(*raised().values())
    assert sorted(named(".") - found) == []


def test_what_stays_within_exists() -> None:
    raised()
    assert set(WITHIN) <= {error.reason for error in errors()}
