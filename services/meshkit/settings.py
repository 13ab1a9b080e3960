"""The settings that every service has. A service derives its own class with its prefix and its own knobs."""

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_HIGHEST_PORT: Final = 65_535


def _have_ports(addresses: str) -> str:
    if any(int(address.rpartition(":")[2]) > _HIGHEST_PORT for address in addresses.split(",")):
        raise ValueError(f"a port must be at most {_HIGHEST_PORT}")
    return addresses


def _are_of_replicas(addresses: str) -> str:
    if "," not in addresses:
        return addresses
    try:
        families = {ip_address(address.rpartition(":")[0].strip("[]")).version for address in addresses.split(",")}
    except ValueError:
        families = set[int]()
    if len(families) != 1:
        raise ValueError("several addresses must be IP addresses, all of them IPv4 or all IPv6")
    return addresses


#: An address as `host:port`; IPv6 hosts stand in brackets.
HostPort = Annotated[
    str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\[\]\s]+):\d{1,5}$"), AfterValidator(_have_ports)
]
#: Where a neighbour is called: its address, or those of its replicas with commas between, which are IP addresses of one
#: family then.
Target = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\[[0-9a-fA-F:]+\]|[^:,\[\]\s]+):\d{1,5}(,(\[[0-9a-fA-F:]+\]|[^:,\[\]\s]+):\d{1,5})*$"
    ),
    AfterValidator(_have_ports),
    AfterValidator(_are_of_replicas),
]


def _one_of(*schemes: str) -> AfterValidator:
    """Wants addresses to begin with one of these; the rest of them may be secret."""

    def check(url: SecretStr) -> SecretStr:
        scheme, parted, _ = url.get_secret_value().partition("://")
        # What follows a plus names a driver, which is ours to choose.
        if not parted or scheme.partition("+")[0] not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{known}://' for known in schemes)}")
        return url

    return AfterValidator(check)


PostgresUrl = Annotated[SecretStr, _one_of("postgresql", "postgres")]
NatsUrl = Annotated[SecretStr, _one_of("nats", "tls", "ws", "wss")]


class ServiceSettings(BaseSettings):
    """Settings shared by all services, read once from the environment.

    Derive with `model_config = SettingsConfigDict(env_prefix="COMITIA_TOOLS_")`; the rest is inherited.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    listen: HostPort = Field(description="Address the gRPC server listens on; port 0 takes any free one.")
    metrics_listen: HostPort | None = Field(
        default=None, description="Address of the Prometheus page `/metrics`. Without it there is no such page."
    )
    database_url: PostgresUrl = Field(description="Database of the service as role `app`, bound by row-level security.")
    maintenance_database_url: PostgresUrl = Field(
        description="The same database as role `maintenance`, for background work across tenants."
    )
    nats_url: NatsUrl = Field(default=SecretStr("nats://127.0.0.1:4222"), description="Address of NATS.")
    jwks_path: Path = Field(description="Key set that access tokens are verified with; re-read when it changes.")
    jwks_from_gateway: bool = Field(
        default=False,
        description="Keep the file `jwks_path` by what the gateway's `GetKeySet` says, every 10 s. For a machine that "
        "shares no files with the gateway.",
    )
    workload_key_path: Path = Field(description="Private key with which this service signs its workload assertions.")
    workload_jwks_path: Path = Field(description="Key set that the assertions of the neighbours are verified with.")
    tls_cert_path: Path | None = Field(
        default=None,
        description="Certificate (PEM) shown to the neighbours, with the DNS name `<service>.comitia`, followed by "
        "those of authorities in between. All three `tls_…_path` or none; without them services speak plain text. The "
        "files are re-read when they change.",
    )
    tls_key_path: Path | None = Field(default=None, description="Private key (PEM) of that certificate.")
    tls_ca_path: Path | None = Field(
        default=None, description="Authorities (PEM) that certificates of the neighbours and the edge are held against."
    )
    east_west_target: Target | None = Field(
        default=None,
        description="Address of the east-west listener, which neighbours are called through. It needs certificates; "
        "without it they are called directly.",
    )
    kek_provider: str = Field(
        default="file",
        description="What wraps the tenants' data keys: `file`, `vault` (Vault or OpenBao), or an installed plug-in.",
    )
    kek_path: Path | None = Field(
        default=None,
        description="File of the keys that wrap the tenants' data keys. Another provider still opens with it, so that "
        "a move away from the file needs no pause; without it what the file wrapped stays closed.",
    )
    kek_options: SecretStr = Field(default=SecretStr("{}"), description="What a plug-in needs, a JSON object of texts.")
    vault_url: str | None = Field(default=None, description="Address of Vault, `https://vault.internal:8200`.")
    vault_mount: str = Field(default="transit", description="Path of the transit engine in Vault.")
    vault_key: str = Field(default="comitia", description="Name of the transit key.")
    vault_token: SecretStr | None = Field(default=None, description="Token for Vault, if it comes in no file.")
    vault_token_path: Path | None = Field(
        default=None, description="File with the token, as Vault's agent keeps it; read for every request."
    )
    vault_namespace: str | None = Field(default=None, description="Namespace in Vault, where there are several.")
    vault_ca_path: Path | None = Field(
        default=None, description="Certificates (PEM) that Vault's is checked against. Without it the system's."
    )
    gateway_target: Target = Field(default="127.0.0.1:7401", description="Address of the gateway.")
    orchestrator_target: Target = Field(default="127.0.0.1:7402", description="Address of the orchestrator.")
    inference_target: Target = Field(default="127.0.0.1:7403", description="Address of inference.")
    policy_target: Target = Field(default="127.0.0.1:7404", description="Address of policy.")
    memory_target: Target = Field(default="127.0.0.1:7405", description="Address of memory.")
    tools_target: Target = Field(default="127.0.0.1:7406", description="Address of tools.")
    cost_target: Target = Field(default="127.0.0.1:7407", description="Address of cost.")
    guard_wait_seconds: float = Field(
        default=2.0,
        ge=0,
        le=60,
        description="Longest wait at the start for the gateway's word about revoked keys and the rules of tenants, "
        "before calls are taken by what `guard_path` has of them.",
    )
    guard_path: Path | None = Field(
        default=None,
        description="File in which that word is kept, so that a service that starts while the gateway is away goes by "
        "it, for 20 minutes. Without it such a service refuses calls until the gateway has spoken.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line that is written. Finished calls are logged at `debug`."
    )
    notice_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="Time after SIGTERM in which health says NOT_SERVING and calls are still taken, so that callers go "
        "to other replicas before any is refused. More than whoever sends calls takes to notice, such as a load "
        "balancer that asks every 2 s. SIGINT, by which everything is stopped, ends it.",
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, le=3600, description="Longest time running calls may take to finish after SIGTERM."
    )
    max_concurrent_calls: int = Field(
        default=2000, ge=1, description="Calls served at once; one more is refused with RESOURCE_EXHAUSTED."
    )
    rate_factor: float = Field(
        default=1.0, gt=0, description="Multiplies the rate limit of every RPC; for benchmarks and tests."
    )
    edge_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description="Networks in which the edge runs, CIDR: from there alone `x-forwarded-for` is believed.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="OTLP collector of traces, by gRPC: `http://host:4317`, `https://…`. Without it none is recorded. "
        "`OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_CERTIFICATE` of OpenTelemetry give headers and "
        "authorities (PEM); no proxy of the environment is used.",
    )
    otlp_ratio: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Part of the traces that begin at this service that is recorded; what others began it records as "
        "they decided, and what callers from outside say of it does not count.",
    )
    otlp_max_waiting_spans: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Spans that may wait for the collector; one more is dropped and counted. No call waits for it.",
    )
    failpoints: str = Field(
        default="",
        description="Failures to provoke, `name=kill,name=delay:50@3`. For crash tests; empty in production.",
    )

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        given = [path is not None for path in (self.tls_cert_path, self.tls_key_path, self.tls_ca_path)]
        if any(given) and not all(given):
            raise ValueError("tls_cert_path, tls_key_path and tls_ca_path belong together; give all three or none")
        if self.east_west_target is not None and not all(given):
            raise ValueError(
                "east_west_target needs tls_cert_path, tls_key_path and tls_ca_path, by which callers are known"
            )
        return self

    def given_files(self) -> dict[str, Path]:
        """Gives the files that must be there before the service starts, by field."""
        given = {
            "jwks_path": None if self.jwks_from_gateway else self.jwks_path,
            "workload_key_path": self.workload_key_path,
            "workload_jwks_path": self.workload_jwks_path,
            "tls_cert_path": self.tls_cert_path,
            "tls_key_path": self.tls_key_path,
            "tls_ca_path": self.tls_ca_path,
            "kek_path": self.kek_path,
            "vault_ca_path": self.vault_ca_path,
        }
        return {name: path for name, path in given.items() if path is not None}

    @property
    def neighbours(self) -> dict[str, str]:
        """Names of the services by the addresses at which they are called."""
        return {
            self.gateway_target: "gateway",
            self.orchestrator_target: "orchestrator",
            self.inference_target: "inference",
            self.policy_target: "policy",
            self.memory_target: "memory",
            self.tools_target: "tools",
            self.cost_target: "cost",
        }
