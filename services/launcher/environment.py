"""The environment of each child: what the launcher knows, under the names that the services' settings read.

A service gets its own variables and those of nobody else: no other service's database, no administrator's address, and
keys of model providers only in inference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.mesh_databases import PREFIX_VARIABLE, MeshDatabases
from services.launcher.ports import DOORS, doors_port_name, metrics_port_name
from services.launcher.services import SERVICES, Replicas, processes, service_of

_PREFIX: Final = "COMITIA_"
#: What every program may need from the shell that started the mesh.
_ORDINARY: Final = frozenset(
    "HOME LANG LANGUAGE LOGNAME PATH PYTHONPATH PYTHONDEVMODE PYTHONWARNINGS SHELL SSL_CERT_DIR SSL_CERT_FILE TMPDIR "
    "TZ USER VIRTUAL_ENV COVERAGE_PROCESS_START HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy".split()
)
_ORDINARY_PREFIXES: Final = ("LC_", "OTEL_")
_PROVIDER_PREFIXES: Final = ("OPENAI_", "ANTHROPIC_")
#: Settings that all services share, told once: `COMITIA_VAULT_URL` is `COMITIA_TOOLS_VAULT_URL` and so on.
_SHARED_PREFIXES: Final = ("COMITIA_KEK_", "COMITIA_OTLP_", "COMITIA_VAULT_")
#: The edge asks every second how a service is, and believes the second answer.
_NOTICE_SECONDS: Final = "3"
_CERTIFICATE_SETTINGS: Final = ("TLS_CERT_PATH", "TLS_KEY_PATH", "TLS_CA_PATH")
#: The launcher's own; each service is told its part by another name.
_LAUNCHERS: Final = frozenset(
    {"COMITIA_POSTGRES_URL", PREFIX_VARIABLE, "COMITIA_NATS_URL", "COMITIA_MILVUS_URL", "COMITIA_DATA_DIR"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshFacts:
    """Everything that is settled before the first service starts."""

    data: DataDir
    ports: Mapping[str, int]
    #: Environment of the launcher with the caller's settings on top.
    user: Mapping[str, str] = field(repr=False)
    databases: MeshDatabases
    nats_url: str = field(repr=False)
    #: Address of the local model, where it runs.
    local_model_url: str | None = None
    #: Services show each other certificates, which lie in the data directory.
    mtls: bool = False
    #: They call each other through the east-west listener.
    east_west: bool = False
    #: Address of a Milvus server; without it memory uses Milvus Lite in its data directory.
    milvus_url: str | None = None
    #: How many processes each service has.
    replicas: Replicas = field(default_factory=dict[str, int])

    def target(self, service: str) -> str:
        """Gives the addresses at which a service is called."""
        serving = processes(service, self.replicas.get(service, 1))
        return ",".join(f"127.0.0.1:{self.ports[process]}" for process in serving)


def ordinary_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Keeps what every program may need: paths, language, proxies; no secret of anybody."""
    return {name: value for name, value in user.items() if name in _ORDINARY or name.startswith(_ORDINARY_PREFIXES)}


def service_environment(process: str, facts: MeshFacts) -> dict[str, str]:
    """Resolves the environment of one process of a service. A variable that the user has set wins.

    Args:
        process: name of the service, or of one more process of it as `services.processes` names it. Where that listens
            is not for the user to say: they said it of the first.
    """
    service = service_of(process)
    own = _own_prefix(service)
    computed = {own + name: value for name, value in _own_settings(service, facts).items()}
    elsewhere = {} if process == service else {own + name: value for name, value in _places(process, facts).items()}
    return {
        # Two arenas instead of eight per core: a service has few threads, and memory is what a laptop lacks.
        "MALLOC_ARENA_MAX": "2",
        **ordinary_environment(facts.user),
        **computed,
        **{own + name.removeprefix(_PREFIX): value for name, value in facts.user.items() if _is_shared(name)},
        **_from_user(service, facts.user),
        **elsewhere,
    }


def whole_environment(facts: MeshFacts) -> dict[str, str]:
    """Resolves the environment of a process that holds all seven."""
    merged: dict[str, str] = {}
    for service in SERVICES:
        merged.update(service_environment(service, facts))
    return merged


def asked_ports(user: Mapping[str, str]) -> dict[str, int]:
    """Reads the ports that the user gave services by `COMITIA_<SERVICE>_LISTEN`.

    Raises: LauncherError: one is no `host:port`.
    """
    asked: dict[str, int] = {}
    for service in SERVICES:
        listening = [(service, "LISTEN"), (metrics_port_name(service), "METRICS_LISTEN")]
        if service == "inference":
            listening.append((DOORS, "DOORS_LISTEN"))
        for name, variable in listening:
            given = user.get(_own_prefix(service) + variable)
            if given is None:
                continue
            port = given.rpartition(":")[2]
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise LauncherError(
                    f"{_own_prefix(service)}{variable} is {given!r}; it must be host:port with a port from 1 to 65535"
                )
            asked[name] = int(port)
    return asked


def refuse_own_certificates(user: Mapping[str, str]) -> None:
    """Raises: LauncherError: the user names certificates; the launcher could not ask those services how they are."""
    for service in SERVICES:
        for variable in _CERTIFICATE_SETTINGS:
            if user.get(_own_prefix(service) + variable):
                raise LauncherError(
                    f"{_own_prefix(service)}{variable} is set, but the launcher makes the certificates itself; "
                    "take it away, and start with `comitia up --mtls`"
                )


def _own_prefix(service: str) -> str:
    return f"{_PREFIX}{service.upper()}_"


def _own_settings(service: str, facts: MeshFacts) -> dict[str, str]:
    data = facts.data
    settings = {
        **_places(service, facts),
        "DATABASE_URL": facts.databases.url(service, "app"),
        "MAINTENANCE_DATABASE_URL": facts.databases.url(service, "maintenance"),
        "NATS_URL": facts.nats_url,
        "JWKS_PATH": str(data.jwks),
        "WORKLOAD_KEY_PATH": str(data.workload_key(service)),
        "WORKLOAD_JWKS_PATH": str(data.workload_jwks),
        "KEK_PATH": str(data.kek),
        "DATA_DIR": str(data.of(service)),
    }
    # Its own among them: the gateway asks all seven how they are, and by an address TLS knows who has to answer there.
    for neighbour in SERVICES:
        settings[f"{neighbour.upper()}_TARGET"] = facts.target(neighbour)
    if facts.mtls:
        settings["TLS_CERT_PATH"] = settings["TLS_KEY_PATH"] = str(data.certificate(service))
        settings["TLS_CA_PATH"] = str(data.authorities)
    if facts.east_west:
        settings["EAST_WEST_TARGET"] = f"127.0.0.1:{facts.ports['east_west']}"
    if service == "gateway":
        settings["SIGNING_KEY_PATH"] = str(data.signing_key)
        settings["BOOTSTRAP_KEY_PATH"] = str(data.bootstrap_key)
        settings["AUDIT_KEY_PATH"] = str(data.audit_key)
        settings["AUDIT_JWKS_PATH"] = str(data.audit_jwks)
        settings["AUDIT_STORE"] = str(data.audit)
        # Who runs a mesh on a machine of their own may sign in by a provider beside it; their tenants may not look
        # around on that machine.
        settings["OIDC_REACH_LOCAL"] = "operators"
    if service == "orchestrator":
        settings["OBJECT_STORE"] = str(data.of(service) / "objects")
    if service == "inference":
        # When one dies, little but its own next start waits for its calls.
        settings["CLAIM_SECONDS"] = "2"
    if service == "inference" and facts.local_model_url is not None:
        settings["LOCAL_MODEL_URL"] = facts.local_model_url
    if service == "memory" and facts.milvus_url is not None:
        settings["MILVUS_URL"] = facts.milvus_url
    return settings


def _places(process: str, facts: MeshFacts) -> dict[str, str]:
    """Gives where a process listens, how it leaves, what it alone writes, and by what name it takes work up again."""
    own: dict[str, str] = {}
    if facts.replicas.get(service_of(process), 1) > 1:
        own["NOTICE_SECONDS"] = _NOTICE_SECONDS
    if service_of(process) == "orchestrator":
        own["REPLICA"] = process
    if service_of(process) == "inference":
        doors = facts.ports[doors_port_name(process)]
        own |= {"DOORS_LISTEN": f"127.0.0.1:{doors}", "REGISTRY_PATH": str(facts.data.registry(process))}
    return {
        **own,
        "LISTEN": f"127.0.0.1:{facts.ports[process]}",
        "METRICS_LISTEN": f"127.0.0.1:{facts.ports[metrics_port_name(process)]}",
        "GUARD_PATH": str(facts.data.guard(process)),
    }


def _is_shared(name: str) -> bool:
    return name.startswith(_SHARED_PREFIXES)


def _from_user(service: str, user: Mapping[str, str]) -> dict[str, str]:
    others = tuple(_own_prefix(name) for name in SERVICES if name != service)
    kept = {
        name: value
        for name, value in user.items()
        if name.startswith(_PREFIX) and not name.startswith(others) and name not in _LAUNCHERS and not _is_shared(name)
    }
    if service == "inference":
        kept.update({name: value for name, value in user.items() if name.startswith(_PROVIDER_PREFIXES)})
    return kept
