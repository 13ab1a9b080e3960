"""Deployments, versions and routes as tenants register them, and what is refused."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self
from urllib.parse import urlsplit

from services.inference.domain.deployment import Adapter, AdapterForm, DeploymentVersion, Task, VersionState
from services.inference.domain.errors import ModelNotFound
from services.inference.domain.route import Route, RouteMode
from services.inference.domain.routing.reward import RewardPolicy
from services.meshkit.core.errors import Invalid

#: Deployments of one tenant that are not retired, versions of one of them, and routes.
MOST_DEPLOYMENTS: Final = 500
MOST_VERSIONS: Final = 100
MOST_ROUTES: Final = 500
MOST_MEMBERS: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
#: Below, two questions have nothing to do with each other.
_LEAST_SIMILARITY: Final = 0.5
_ROUTE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_TEXT: Final = 256
_MOST_URL: Final = 2_048
_MOST_TOKENS: Final = 100_000_000
#: 1,000 USD.
_MOST_DEAR: Final = 1_000_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """A version and what its check found."""

    version: DeploymentVersion
    failures: tuple[str, ...] = ()
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDeployment:
    """A deployment of a tenant."""

    id: str
    name: str
    task: Task
    #: Newest first. None in a list, or as it is retired: this release cannot read them.
    versions: tuple[RegisteredVersion, ...]
    created: datetime
    retired: datetime | None = None

    def version(self, number: int) -> RegisteredVersion:
        """Gives one version. Raises: ModelNotFound."""
        for one in self.versions:
            if one.version.version == number:
                return one
        raise ModelNotFound(f"{self.name}@{number}")

    def checked(self, number: int, failures: tuple[str, ...]) -> Self:
        """Takes in what the check of a version found. Raises: ModelNotFound: there is none, or it is retired."""
        found = self.version(number)
        if found.version.state is VersionState.RETIRED:
            raise ModelNotFound(f"{self.name}@{number}")
        state = VersionState.REFUSED if failures else VersionState.READY
        done = replace(found, version=replace(found.version, state=state), failures=failures)
        return replace(self, versions=tuple(done if one is found else one for one in self.versions))


def check_name(name: str) -> None:
    """Raises Invalid unless a deployment may have this name."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            "name", "must be 1 to 128 letters, digits, '.', '_', '-' and '/', and begin with one of the first two"
        )


def check_version(version: DeploymentVersion, *, needs_address: bool) -> None:
    """Raises Invalid, naming the field, unless all limits are kept."""
    if not 1 <= len(version.model) <= _MOST_TEXT:
        raise Invalid("version.model", f"must be 1 to {_MOST_TEXT} characters")
    for field, text in (("provider", version.provider), ("region", version.region)):
        if len(text) > _MOST_TEXT:
            raise Invalid(f"version.{field}", f"must be at most {_MOST_TEXT} characters")
    # Compared as prices are looked up: what runs in the mesh is free, however it is written.
    if version.provider.lower() in (Adapter.LOCAL, Adapter.STUB):
        raise Invalid("version.provider", "must be who is paid; what runs in the mesh itself cannot be registered")
    _check_address(version.base_url, needed=needs_address)
    for field in (
        "context_tokens",
        "max_output_tokens",
        "max_concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "image_tokens",
    ):
        number: int = getattr(version, field)
        if not 0 <= number <= _MOST_TOKENS:
            raise Invalid(f"version.{field}", f"must be 0 to {_MOST_TOKENS}")


def check_embedder(version: DeploymentVersion) -> None:
    """Raises Invalid where a version that embeds says what is kept to, or means anything, for one that answers only."""
    for field in (
        "capabilities",
        "context_tokens",
        "max_output_tokens",
        "max_concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "image_tokens",
        "tier",
    ):
        if getattr(version, field):
            raise Invalid(f"version.{field}", "is not for a model that embeds; leave it out")
    if version.form is not AdapterForm.WIRE:
        raise Invalid("version.form", "must be WIRE for a model that embeds")


def same_place(one: DeploymentVersion, other: DeploymentVersion) -> bool:
    """Says whether both are spoken to alike, at the same scheme, host and port: the key of one suits the other."""
    return (one.adapter, _origin(one.base_url)) == (other.adapter, _origin(other.base_url))


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _check_address(url: str, *, needed: bool) -> None:
    field = "version.base_url"
    if not url:
        if needed:
            raise Invalid(field, "is required for this adapter")
        return
    if len(url) > _MOST_URL or any(sign <= " " or sign in "\\\x7f" for sign in url):
        raise Invalid(field, "must be a URL without white space, at most 2048 characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as cause:
        raise Invalid(field, "must be a URL") from cause
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise Invalid(field, "must be http or https with a host, without credentials, query and fragment")


def check_route(route: Route) -> None:
    """Raises Invalid, naming the field, unless all limits are kept."""
    if not _ROUTE_NAME.fullmatch(route.name):
        raise Invalid(
            "route.name", "must be 1 to 64 letters, digits, '.', '_' and '-', and begin with one of the first two"
        )
    if not 1 <= len(route.members) <= MOST_MEMBERS:
        raise Invalid("route.members", f"must hold 1 to {MOST_MEMBERS}")
    names = [one.deployment for one in route.members]
    if len(set(names)) < len(names):
        raise Invalid("route.members", "must name each deployment once")
    for index, member in enumerate(route.members):
        if not 0 <= member.weight_permille <= 1000:
            raise Invalid(f"route.members[{index}].weight_permille", "must be 0 to 1000")
    hop = route.hop
    if not 1 <= hop.tries <= 3:
        raise Invalid("route.hop.tries", "must be 1 to 3, 0 for 1")
    if not 0 <= hop.repairs <= 2:
        raise Invalid("route.hop.repairs", "must be 0 to 2")
    for field, seconds in (("first_byte", hop.first_byte_seconds), ("between_bytes", hop.between_seconds)):
        if not 0 < seconds <= 300:
            raise Invalid(f"route.hop.{field}", "must be above 0 and at most 300 s")
    if not 0 <= route.cache_seconds <= 24 * 3600:
        raise Invalid("route.cache.exact_ttl", "must be 0 to 24 h")
    if route.semantic_threshold and not _LEAST_SIMILARITY < route.semantic_threshold <= 1:
        raise Invalid("route.cache.semantic_threshold", f"must be above {_LEAST_SIMILARITY} and at most 1, or 0")
    if route.semantic_threshold and not route.cache_seconds:
        raise Invalid("route.cache.exact_ttl", "must be above 0 with `semantic_threshold`: so long answers are kept")
    if route.sla_seconds is not None and not 0 < route.sla_seconds <= 300:
        raise Invalid("route.sla", "must be above 0 and at most 300 s")
    if route.sla_seconds is not None and not (route.mode.learns or route.mode is RouteMode.TIERED):
        raise Invalid("route.sla", "is what the modes TIERED, BANDIT_THOMPSON and BANDIT_LINUCB choose by")
    if route.reward is not None:
        _check_reward(route.mode, route.reward)
    if route.shadow is not None:
        if route.shadow.deployment in names:
            raise Invalid("route.shadow.deployment", "is a member of the route already")
        if not 1 <= route.shadow.permille <= 1000:
            raise Invalid("route.shadow.permille", "must be 1 to 1000")


def _check_reward(mode: RouteMode, reward: RewardPolicy) -> None:
    if not mode.learns:
        raise Invalid("route.reward", "is what the modes BANDIT_THOMPSON and BANDIT_LINUCB go by")
    weights = {
        "quality_permille": reward.quality_permille,
        "cost_permille": reward.cost_permille,
        "latency_permille": reward.latency_permille,
    }
    for field, weight in weights.items():
        if not 0 <= weight <= 1000:
            raise Invalid(f"route.reward.{field}", "must be 0 to 1000")
    if sum(weights.values()) != 1000:
        raise Invalid("route.reward", "must have weights that add up to 1000")
    if not 0 < reward.dear_nano_usd <= _MOST_DEAR:
        raise Invalid("route.reward.dear_nano_usd", f"must be 1 to {_MOST_DEAR}")
