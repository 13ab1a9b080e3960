"""Keys, tokens and admissions for tests: what the launcher and the gateway make in a real mesh."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.guard import Admission, Guard
from services.meshkit.grpc.identity import TokenSigner, TokenVerifier, WorkloadSigner, WorkloadVerifier
from services.meshkit.grpc.limits import Limits
from services.meshkit.grpc.signed_token import KeySetFile, SigningKey, key_set
from services.meshkit.guard.kept import write_guard_file

SERVICES = ("gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost")
#: The tenant of tests that need only one.
TENANT = TenantId(UUID("01900000-0000-7000-8000-000000000001"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshKeys:
    """The keys of a mesh in a folder: one for access tokens, one per service."""

    folder: Path
    clock: Clock
    access_key: SigningKey
    workload_keys: Mapping[str, SigningKey]

    @classmethod
    def make(cls, folder: Path, *, clock: Clock, services: tuple[str, ...] = SERVICES) -> "MeshKeys":
        """Makes keys for these services and writes the key sets."""
        access_key = SigningKey.generate("access-1")
        workload_keys = {service: SigningKey.generate(service) for service in services}
        keys = cls(folder=folder, clock=clock, access_key=access_key, workload_keys=workload_keys)
        for key in (access_key, *workload_keys.values()):
            key.write(folder / f"{key.kid}.key")
        keys.jwks_path.write_bytes(key_set([access_key]))
        keys.workload_jwks_path.write_bytes(key_set(workload_keys.values()))
        write_guard_file(keys.guard_path, b"", now=clock.now().timestamp())
        return keys

    @classmethod
    def read(cls, folder: Path, *, clock: Clock) -> "MeshKeys":
        """Reads what `make` wrote, in another process."""
        keys = {path.stem: SigningKey.read(path) for path in folder.glob("*.key")}
        return cls(folder=folder, clock=clock, access_key=keys.pop("access-1"), workload_keys=keys)

    def key_path(self, service: str) -> Path:
        """Private key of a service."""
        return self.folder / f"{service}.key"

    @property
    def jwks_path(self) -> Path:
        """Key set of access tokens."""
        return self.folder / "access.jwks"

    @property
    def workload_jwks_path(self) -> Path:
        """Key set of workload assertions."""
        return self.folder / "workload.jwks"

    @property
    def guard_path(self) -> Path:
        """What a gateway said that knows of no revocation and no rule; for a service that runs without one."""
        return self.folder / "guard"

    def admission(self, guards: Mapping[str, Guard], *, limits: Limits | None = None) -> Admission:
        """Makes what a server lets callers in by; without limits it counts nothing."""
        return Admission(
            guards,
            tokens=TokenVerifier(KeySetFile(self.jwks_path, clock=self.clock), clock=self.clock),
            workloads=WorkloadVerifier(KeySetFile(self.workload_jwks_path, clock=self.clock), clock=self.clock),
            limits=limits,
        )

    def workload(self, service: str) -> WorkloadSigner:
        """Makes what `service` proves its name with."""
        return WorkloadSigner(service, self.workload_keys[service], clock=self.clock)

    def principal(
        self,
        *roles: Role,
        tenant: TenantId = TENANT,
        subject: str = "key_test",
        project: str | None = None,
        scopes: frozenset[str] | None = None,
        run_id: str | None = None,
        life: timedelta = timedelta(minutes=5),
    ) -> Principal:
        """Makes a principal with its token; an administrator unless roles are named."""
        principal = Principal(
            tenant=tenant,
            subject=subject,
            project=project,
            roles=frozenset(roles) or frozenset({Role.ADMIN}),
            scopes=scopes,
            run_id=run_id,
        )
        signer = TokenSigner(self.access_key, clock=self.clock)
        return replace(principal, token=Secret(signer.sign(principal, life=life, token_id="test")))
