"""By what a service proves who it is: its key and, where services speak TLS, its certificate."""

from services.meshkit.core.clock import Clock
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.grpc.tls import MeshTls, TlsFiles
from services.meshkit.settings import ServiceSettings


def workload_identity(settings: ServiceSettings, service: str, *, clock: Clock) -> WorkloadSigner:
    """Reads what the settings of a service name.

    Raises: KeyUnreadable, CertificateUnusable.
    """
    key = SigningKey.read(settings.workload_key_path)
    return WorkloadSigner(service, key, clock=clock, tls=_mesh_tls(settings, service, clock=clock))


def _mesh_tls(settings: ServiceSettings, service: str, *, clock: Clock) -> MeshTls | None:
    certificate, key, authorities = settings.tls_cert_path, settings.tls_key_path, settings.tls_ca_path
    if certificate is None or key is None or authorities is None:
        return None
    files = TlsFiles(certificate=certificate, key=key, authorities=authorities)
    return MeshTls(
        files,
        service=service,
        neighbours=settings.neighbours,
        clock=clock,
        east_west=settings.east_west_target or "",
    )
