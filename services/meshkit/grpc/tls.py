"""Certificates between services: files that are read again when they change, and what they prove.

A certificate names its service as the DNS name `<service>.comitia`, whatever address the service has. Both ends show
one, and both are held against the same authority. Where calls go through the east-west listener, that shows
`east-west.comitia` to both sides and tells the second what the first has shown.
Sources: docs/decisions/0008-mtls.md, 0020-east-west.md
"""

import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal
from services.meshkit.grpc.forwarded_certificate import forwarded_names
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Who the east-west listener is. It signs no assertion, so it calls in nobody's name, its own neither.
EAST_WEST: Final = "east-west"
#: What follows the name of a service in its certificate; the domain of its errors too.
_SUFFIX: Final = ".comitia"
#: How often the files are looked at, seconds.
LOOK_SECONDS: Final = 1.0
#: DNS names of the certificate that the other end showed, as gRPC tells them.
_PEER_DNS: Final = "peer_dns"

log = logger(__name__)


class CertificateUnusable(Internal):
    """A certificate file is missing, or certificate and key are no pair. Check what the three files hold."""

    reason = "CERTIFICATE_UNUSABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the certificate of a service lies, PEM."""

    #: Its certificate, then those of authorities in between.
    certificate: Path
    key: Path
    #: The authorities that it believes; more than one while they are exchanged.
    authorities: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the files held at one moment, known to fit together."""

    chain: bytes
    key: bytes
    authorities: bytes
    #: Unix time, seconds.
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How calls get to a neighbour."""

    #: Where they are sent, as `HostPort`s with commas between.
    target: str
    #: DNS name that the certificate shown there has to hold.
    shows: str
    #: DNS name by which the east-west listener hands them on; empty where the neighbour is there itself.
    handed_to: str = ""


class MeshTls:
    """The certificate of one service. Once good, what becomes of its files never takes it away.

    Concurrency: gRPC asks from threads of its own at every handshake.
    Raises: CertificateUnusable: the files are not usable at the start. Later the last good ones stay in use.
    """

    def __init__(
        self, files: TlsFiles, *, service: str, neighbours: Mapping[str, str], clock: Clock, east_west: str = ""
    ) -> None:
        """Reads the files.

        Args:
            neighbours: names of services by the addresses at which they are called.
            east_west: address of the listener that neighbours are called through; empty where there is none.
        """
        self._files = files
        self._service = service
        self._neighbours = neighbours
        self._clock = clock
        #: See above.
        self.east_west = east_west
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._looked = clock.monotonic()
        self._certificates = _read(files)
        #: Grows with each change.
        self.generation = 1
        self._show()

    async def sleep(self, seconds: float) -> None:
        """Waits, on the clock by which the files are looked at."""
        await self._clock.sleep(seconds)

    def refresh(self) -> int:
        """Looks whether the files changed, at most once a second; gives the generation in use."""
        with self._lock:
            moment = self._clock.monotonic()
            if moment - self._looked >= LOOK_SECONDS:
                self._looked = moment
                self._look()
            return self.generation

    def _look(self) -> None:
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                return
            self._certificates = _read(self._files)
        except CertificateUnusable as error:
            # A rotation replaces one file after the other; the next look sees all of them.
            log.error("certificate not usable; the last good one stays in use", error=repr(error))
            return
        self._stamp = stamp
        self.generation += 1
        self._show()

    def _show(self) -> None:
        expires = self._certificates.expires
        metrics.TLS_CERTIFICATE_EXPIRES.labels(self._service).set(expires)
        left = expires - self._clock.now().timestamp()
        log.info("certificate read", service=self._service, seconds_left=round(left))

    def way_to(self, target: str, *, service: str = "") -> Way:
        """Says how calls to the service at `target` get there.

        Args:
            service: who has to answer at this very address, as one of several that are not alike; none for the
                neighbour that is expected there, whichever replica answers.
        Raises: CertificateUnusable: nobody is expected there.
        """
        if service:
            return Way(target=target, shows=certified_name(service))
        if not self.east_west:
            return Way(target=target, shows=self.server_name(target))
        return Way(target=self.east_west, shows=certified_name(EAST_WEST), handed_to=self.server_name(target))

    def server_name(self, target: str) -> str:
        """Gives the name that the certificate of the service at `target` has to show.

        Raises: CertificateUnusable: nobody is expected there.
        """
        neighbour = self._neighbours.get(target)
        if neighbour is None:
            raise CertificateUnusable(f"no service is known at {target}, so none can prove itself there", target=target)
        return certified_name(neighbour)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Gives credentials of a server that asks for its callers' certificates, and renews its own while it serves."""
        told = self.refresh()

        # None says that nothing changed, which the types of gRPC do not know.
        def renewed() -> Any:
            nonlocal told
            generation = self.refresh()
            if generation == told:
                return None
            told = generation
            return self._server_configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(), renewed, require_client_authentication=True
        )

    def server_context(self) -> ssl.SSLContext:
        """Gives the same for a server that speaks no gRPC; each handshake takes the files as they are then."""
        told, latest = self.refresh(), self._context()

        def renew(connection: ssl.SSLObject | ssl.SSLSocket, _name: str, _context: ssl.SSLContext) -> None:
            nonlocal told, latest
            generation = self.refresh()
            if generation != told:
                told, latest = generation, self._context()
            connection.context = latest

        first = self._context()
        first.sni_callback = renew
        return first

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.certificate, self._files.key)
        context.load_verify_locations(cadata=self._certificates.authorities.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Gives credentials of a channel, as the files are now."""
        now = self._certificates
        return grpc.ssl_channel_credentials(
            root_certificates=now.authorities, private_key=now.key, certificate_chain=now.chain
        )

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        now = self._certificates
        return grpc.ssl_server_certificate_configuration([(now.key, now.chain)], root_certificates=now.authorities)


def certified_name(service: str) -> str:
    """Gives the DNS name by which a certificate names a service."""
    return f"{service}{_SUFFIX}"


def certified_names(context: Any) -> frozenset[str]:
    """Gives the DNS names in the certificate that the caller of an RPC showed, verified by the handshake.

    Where the handshake proves that the east-west listener is at the other end, gives what the caller showed to that.

    Args:
        context: of gRPC, whose types name no kind of RPC here.
    """
    shown = cast(Mapping[str, list[bytes]], context.auth_context())
    names = frozenset(name.decode("ascii", "replace") for name in shown.get(_PEER_DNS, ()))
    if names == frozenset({certified_name(EAST_WEST)}):
        return forwarded_names(context.invocation_metadata() or ())
    return names


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    try:
        found = [path.stat() for path in (files.certificate, files.key, files.authorities)]
    except OSError as error:
        raise CertificateUnusable(f"{error.filename} cannot be read: {error.strerror}") from error
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


def _read(files: TlsFiles) -> Certificates:
    """Reads the three files and makes sure that certificate and key belong together."""
    from cryptography import x509  # 1 MB that a mesh without certificates does not need

    try:
        chain, key, authorities = (path.read_bytes() for path in (files.certificate, files.key, files.authorities))
        certificate = x509.load_pem_x509_certificates(chain)[0]
        private = load_pem_private_key(key, password=None)
        x509.load_pem_x509_certificates(authorities)
        fits = _public(certificate) == _public(private)
    except OSError as error:
        raise CertificateUnusable(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        # What these libraries say may hold pieces of the key.
        raise CertificateUnusable("one of the certificate files holds no PEM of its kind") from error
    if not fits:
        raise CertificateUnusable(f"{files.key} is not the key of {files.certificate}")
    expires = certificate.not_valid_after_utc.timestamp()
    return Certificates(chain=chain, key=key, authorities=authorities, expires=expires)


def _public(of: Any) -> bytes:
    """Gives the public key of a certificate or a private key; both have it, under no common type."""
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
