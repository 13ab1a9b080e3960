"""A certificate authority inside the test, and the certificates of services that it signs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.meshkit.grpc.tls import TlsFiles, certified_name

_LIFE = timedelta(hours=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """Signs certificates. Its own one is in `pem`."""

    common_name: str = "authority of a test"
    key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)
    pem: bytes = field(init=False)

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self._own = (
            x509.CertificateBuilder()
            .subject_name(_name(self.common_name))
            .issuer_name(_name(self.common_name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, SHA256())
        )
        self.pem = self._own.public_bytes(Encoding.PEM)

    def signs(self, service: str, *, ends: timedelta = _LIFE) -> tuple[bytes, bytes]:
        """Gives a certificate of a service and its key, PEM.

        Args:
            ends: from now; negative for one that has expired.
        """
        now, key = datetime.now(UTC), _new_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(service))
            .issuer_name(self._own.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + ends)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(certified_name(service))]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self.key, SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private

    def equips(
        self,
        service: str,
        folder: Path,
        *,
        believes: tuple["Authority", ...] = (),
        ends: timedelta = _LIFE,
    ) -> TlsFiles:
        """Writes the three files of a service, or replaces them one by one as a rotation does.

        Args:
            believes: authorities in its bundle; this one unless others are named.
        """
        folder.mkdir(exist_ok=True)
        files = TlsFiles(
            certificate=folder / f"{service}.crt", key=folder / f"{service}.pem", authorities=folder / f"{service}.ca"
        )
        certificate, key = self.signs(service, ends=ends)
        bundle = b"".join(authority.pem for authority in believes or (self,))
        for path, content in ((files.certificate, certificate), (files.key, key), (files.authorities, bundle)):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.replace(path)
        return files
