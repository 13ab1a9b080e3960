"""Renders the configuration of the edge: `deploy/envoy/*.yaml.j2` filled in from the guard table and `EdgeSettings`.

What may pass is decided by the contracts alone: an RPC without `guard.peers` is public and has a route under its exact
name; an internal one has none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from comitia.guard_table import GUARDS, Guard
from services.launcher.edge_bodies import body_rules
from services.launcher.edge_doors import DOORS, MAX_DOOR_BYTES, door_refusals, longest_seconds
from services.launcher.edge_refusals import MALFORMED, MAX_REQUEST_BYTES, REFUSALS, UNKNOWN_PLACE
from services.launcher.envoy_templates import environment, part
from services.meshkit.core.rate import DEFAULT_PER_SECOND

_ROOT: Final = Path(__file__).parents[2]
#: The contracts, as Envoy reads them to transcode.
DESCRIPTORS: Final = _ROOT / "gen" / "descriptors" / "comitia.binpb"
#: Open to anyone, answered by the gateway.
_EXEMPT_SERVICES: Final = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
#: Headers by which the inside of the mesh, or gRPC itself, identifies callers and calls.
_INTERNAL_HEADERS: Final = (
    "comitia-workload",
    "forwarded",
    "grpc-previous-rpc-attempts",
    "grpc-retry-pushback-ms",
    "grpc-tags-bin",
    "grpc-trace-bin",
    "lb-token",
    "via",
    "x-client-cert",
    "x-real-ip",
)
_INTERNAL_HEADER_PREFIXES: Final = ("x-comitia-", "x-envoy-", "x-forwarded-", "endpoint-load-metrics")
_DEFAULT_SECONDS: Final = 30
#: The RPC whose limits hold at the doors.
_GENERATE: Final = "/comitia.inference.v1.InferenceService/Generate"
#: What stands before a message of gRPC on the wire.
_GRPC_PREFIX_BYTES: Final = 5
#: Long enough for what the services answer at most (4 MiB of protobuf), as JSON.
_MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `host:port`; IPv6 hosts stand in brackets."""
        host, _, port = text.rpartition(":")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificate:
    """What the edge shows to callers, PEM. Files that are moved into their place are taken up at once."""

    #: File of what `render_serving_secret` gives.
    secret: Path
    certificate_chain: Path
    private_key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshTlsFiles:
    """What the edge shows to the services and holds them against."""

    #: Directory of what `render_mesh_secrets` gives. It and those of the certificates are watched for files that are
    #: moved in.
    secrets: Path
    #: PEM, with the DNS name `edge.comitia`.
    certificate_chain: Path
    private_key: Path
    #: Authorities that the services' certificates, `<service>.comitia`, are held against.
    authorities: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """What an installation decides about its edge."""

    listen: Address
    #: Envoy's own admin page. Loopback only.
    admin: Address
    #: gRPC addresses of each of the seven services, by name. Several, and a name that resolves to several, are balanced
    #: over.
    services: Mapping[str, Sequence[Address]]
    #: How access tokens are verified; a `TokenCheck` keeps it.
    token_check: Path
    #: HTTP addresses at which inference serves the dialects of model providers; none: those doors are shut.
    doors: Sequence[Address] = ()
    descriptors: Path = DESCRIPTORS
    #: File of the access log; None writes it to stdout.
    access_log: Path | None = None
    #: None speaks plain text, for the loopback.
    tls: ServingCertificate | None = None
    #: None speaks plain text with the services, for the loopback.
    mesh_tls: MeshTlsFiles | None = None
    #: The services count calls. This edge only keeps floods from them: it lets this many times the limit of an RPC
    #: through, for each tenant or, where an RPC is open, each address.
    flood_factor: float = 10.0
    #: Calls per second that this edge takes in all, and from one address (a /64 of IPv6); twice as many at once. Health
    #: has as much again from each address, and is not among all.
    edge_per_second: int = 5000
    address_per_second: int = 1000
    #: Addresses whose buckets are kept; the least recently seen is forgotten first.
    max_addresses_counted: int = 10_000
    max_connections: int = 10_000
    #: Tenants and callers whose buckets are kept per RPC; the least recently seen is forgotten first.
    max_tenants_counted: int = 1000
    #: Origins from which browsers may call; none by default.
    cors_origins: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.admin.host not in ("127.0.0.1", "::1"):
            raise ValueError(f"the admin page of the edge must listen on the loopback, not on {self.admin.host}")
        missing = {_service_of(path) for path, guard in GUARDS.items() if not guard.peers} - self.services.keys()
        if missing:
            raise ValueError(f"the edge needs the addresses of {', '.join(sorted(missing))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRpc:
    """An RPC that may be called from outside, as its route needs it."""

    #: `/comitia.tools.v1.ToolService/InvokeTool`.
    path: str
    #: Service behind it, such as `tools`.
    service: str
    open: bool
    max_seconds: int
    #: Calls of one tenant, or address, that this edge lets through.
    per_second: int
    #: Calls of one caller of a tenant.
    per_caller: int


def render_edge(settings: EdgeSettings) -> str:
    """Gives the whole Envoy configuration as JSON; reading it as YAML takes 16 MB that Envoy never gives back."""
    rpcs = public_rpcs(GUARDS, settings)
    values: dict[str, Any] = {
        "admin": settings.admin,
        "listen": settings.listen,
        "services": settings.services,
        "token_check": settings.token_check.absolute(),
        "descriptors": settings.descriptors.absolute(),
        "log_path": settings.access_log.absolute() if settings.access_log else None,
        "tls": settings.tls,
        "mesh_secrets": settings.mesh_tls.secrets.absolute() if settings.mesh_tls else None,
        "cors_origins": settings.cors_origins,
        "edge_per_second": settings.edge_per_second,
        "address_per_second": settings.address_per_second,
        "max_addresses_counted": settings.max_addresses_counted,
        "max_connections": settings.max_connections,
        "max_request_bytes": MAX_REQUEST_BYTES,
        "max_body_bytes": MAX_REQUEST_BYTES + _GRPC_PREFIX_BYTES,
        "max_response_bytes": _MAX_RESPONSE_BYTES,
        "max_tenants_counted": settings.max_tenants_counted,
        "rpcs": rpcs,
        "doors": [one for one in DOORS if settings.doors],
        "door_addresses": settings.doors,
        "door_per_second": max(1, int(_limit(GUARDS[_GENERATE]) * settings.flood_factor)),
        "door_seconds": longest_seconds(GUARDS[_GENERATE].max_seconds),
        "max_door_bytes": MAX_DOOR_BYTES,
        "transcoded_services": sorted({rpc.path.split("/")[1] for rpc in rpcs}),
        "open_paths_regex": _open_paths([rpc.path for rpc in rpcs if rpc.open]),
        "internal_headers": _INTERNAL_HEADERS,
        "internal_header_prefixes": _INTERNAL_HEADER_PREFIXES,
    }
    templates = environment()
    rules = body_rules(settings.descriptors.read_bytes())
    values["bodies_lua"] = templates.get_template("bodies.lua.j2").render(
        bodies=rules.bodies, messages=rules.messages, malformed=MALFORMED, unknown_place=UNKNOWN_PLACE
    )
    values["caller_streams"] = rules.streams
    parts = {
        "filters": part(templates, "filters", values),
        "routes": part(templates, "routes", values),
        "access_log": part(templates, "access_log", values),
        "refusals": part(templates, "refusals", {"refusals": REFUSALS, "door_refusals": door_refusals(REFUSALS)}),
    }
    whole = part(templates, "edge", values | parts)
    return json.dumps(whole, indent=1)


def render_mesh_secrets(files: MeshTlsFiles) -> dict[str, str]:
    """Gives the files by which Envoy finds the certificates of the mesh, and finds them again when they change."""
    secrets: list[dict[str, Any]] = part(environment(), "secrets", {"name": "certificate", "files": files})
    # Envoy wants one secret to a file.
    return {f"{secret['name']}.yaml": yaml.dump({"resources": [secret]}, sort_keys=False) for secret in secrets}


def render_serving_secret(files: ServingCertificate) -> str:
    """Gives the file by which Envoy finds what it shows to callers, and finds it again when it changes."""
    secrets: list[dict[str, Any]] = part(environment(), "secrets", {"name": "serving", "files": files})
    return yaml.dump({"resources": secrets}, sort_keys=False)


def public_rpcs(guards: Mapping[str, Guard], settings: EdgeSettings) -> list[PublicRpc]:
    """Lists the RPCs that the edge has routes to, by name."""
    return [
        PublicRpc(
            path=path,
            service=_service_of(path),
            open=guard.open,
            max_seconds=guard.max_seconds or _DEFAULT_SECONDS,
            per_second=max(1, int(_limit(guard) * settings.flood_factor)),
            per_caller=max(1, int(guard.per_subject_per_second * settings.flood_factor)),
        )
        for path, guard in sorted(guards.items())
        if not guard.peers
    ]


def _limit(guard: Guard) -> int:
    """Gives the limit of an RPC that the services keep, of a tenant or, for an open RPC, of an address."""
    named = guard.per_address_per_second if guard.open else guard.per_tenant_per_second
    return named or DEFAULT_PER_SECOND


def _service_of(path: str) -> str:
    """Gives the service in the package of an RPC: `/comitia.tools.v1.…` is of `tools`."""
    return path.split(".")[1]


def _open_paths(paths: list[str]) -> str:
    exact = [re.escape(path) for path in paths]
    return "|".join([*exact, *(f"/{re.escape(service)}/.*" for service in _EXEMPT_SERVICES)])
