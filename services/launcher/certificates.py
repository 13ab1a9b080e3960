"""The certificates of a mesh: an authority of its own, and what that signs for each service and the edge.

keys/tls/authority.pem         signs
keys/tls/next_authority.pem    is believed, and signs soon; only while authorities are exchanged
keys/tls/authorities.pem       the certificates of all that are believed
keys/tls/<holder>.pem          shown by a service, the edge or the launcher

All but `authorities.pem` hold a private key and its certificate in one file, so a rename replaces both at once, and
whoever reads sees a pair. Times are those in the certificates; nothing else is remembered.
Source: docs/decisions/0008-mtls.md
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, find_data_dir, write_private
from services.launcher.options import Progress, Report, StepState
from services.launcher.services import CERTIFIED
from services.meshkit.core.clock import Clock, SystemClock

#: Renewed when a third is left, as everything here.
CERTIFICATE_LIFE: Final = timedelta(days=7)
AUTHORITY_LIFE: Final = timedelta(days=365)
#: Everybody looks at the files each second and then connects anew; by then they have.
SETTLE: Final = timedelta(seconds=5)
#: Certificates count from a little before they were made, for clocks that differ.
_BACKDATED: Final = timedelta(minutes=5)
_LOOK_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Pair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def made(self) -> datetime:
        return self.certificate.not_valid_before_utc + _BACKDATED

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def is_due(self, now: datetime) -> bool:
        """Tells whether only a third of its life is left."""
        return now >= self.ends - (self.ends - self.made) / 3

    def signed(self, other: "_Pair") -> bool:
        try:
            other.certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    @property
    def pem(self) -> bytes:
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private + self.public_pem

    @property
    def public_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateState:
    """One certificate as it is now."""

    #: A service, `edge`, `launcher`, or `authority`.
    holder: str
    made: datetime
    ends: datetime
    #: Hexadecimal digits.
    serial: str


class MeshCertificates:
    """Keeps the certificates of one mesh good. What uses them follows the files by itself.

    Args:
        report: told what was renewed, and what cannot be.
    Concurrency: any number of processes; the directory is locked while something is written.
    """

    def __init__(self, data: DataDir, *, clock: Clock, report: Report) -> None:
        self._data = data
        self._clock = clock
        self._report = report

    def start(self) -> None:
        """Makes what is missing, damaged or due, before anything runs. An exchange of authorities is ended at once.

        Raises: LauncherError: the files cannot be written.
        """
        try:
            self._data.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._data):
                if self._data.next_authority.exists():
                    self._data.next_authority.replace(self._data.authority)
                authority = _read(self._data.authority)
                if authority is None or authority.is_due(self._clock.now()):
                    authority = _new_authority(self._clock.now())
                    write_private(self._data.authority, authority.pem)
                self._believe(authority)
                self._sign_due(authority)
        except OSError as cause:
            raise LauncherError(f"no certificates can be made in {self._data.tls}: {cause.strerror}") from cause

    async def follow(self) -> None:
        """Renews what is due, and leads exchanges of authorities on; never returns."""
        failing = False
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            try:
                renewed = await asyncio.to_thread(self.tend)
            except (OSError, LauncherError) as cause:
                if not failing:
                    self._report(Progress(step="certificates", state=StepState.FAILED, detail=str(cause)))
                failing = True
                continue
            failing = False
            if renewed:
                detail = f"renewed: {', '.join(renewed)}"
                self._report(Progress(step="certificates", state=StepState.DONE, detail=detail))

    def tend(self) -> Sequence[str]:
        """Does what is to be done now while the mesh runs; one step of an exchange at a time.

        Returns: whose certificates are new.
        Raises: LauncherError: the authority is damaged. OSError: a file cannot be written.
        """
        with _locked(self._data):
            now = self._clock.now()
            authority, following = self._authority(), _read(self._data.next_authority)
            if following is not None and now - following.made >= SETTLE:
                # All believe it by now, so it may sign.
                self._data.next_authority.replace(self._data.authority)
                authority, following = following, None
            elif following is None and authority.is_due(now):
                self._announce(authority)
                return ()
            renewed = self._sign_due(authority)
            if following is None and not renewed and all(now - one.made >= SETTLE for one in self._held().values()):
                # All show certificates of this one, so the one before is forgotten.
                self._believe(authority)
            return renewed

    def renew(self) -> Sequence[str]:
        """Gives everybody a new certificate now.

        Raises: LauncherError: this mesh has no certificates, or its authority is damaged.
        """
        with _locked(self._data):
            return self._sign(self._authority(), CERTIFIED)

    def exchange_authority(self) -> None:
        """Begins to put another authority in place; `tend` leads it to the end.

        Raises: LauncherError: this mesh has no certificates, or an exchange is under way.
        """
        with _locked(self._data):
            authority = self._authority()
            if self._data.next_authority.exists() or self._data.authorities.read_bytes() != authority.public_pem:
                raise LauncherError("the authority is being exchanged already; that takes half a minute")
            self._announce(authority)

    def states(self) -> tuple[CertificateState, ...]:
        """Shows all certificates, the authority first; none where there are none."""
        shown = {"authority": _read(self._data.authority), **self._held()}
        return tuple(
            CertificateState(
                holder=holder, made=pair.made, ends=pair.ends, serial=f"{pair.certificate.serial_number:x}"
            )
            for holder, pair in shown.items()
            if pair is not None
        )

    def _authority(self) -> _Pair:
        authority = _read(self._data.authority)
        if authority is None:
            raise LauncherError(
                f"there is no authority in {self._data.authority}; start the mesh with `comitia up --mtls`"
            )
        return authority

    def _announce(self, authority: _Pair) -> None:
        following = _new_authority(self._clock.now())
        self._believe(authority, following)
        # After it is believed: its file is what the next step waits for.
        write_private(self._data.next_authority, following.pem)

    def _believe(self, *authorities: _Pair) -> None:
        wanted = b"".join(authority.public_pem for authority in authorities)
        path = self._data.authorities
        if not path.exists() or path.read_bytes() != wanted:
            write_private(path, wanted)

    def _held(self) -> dict[str, _Pair]:
        found = {holder: _read(self._data.certificate(holder)) for holder in CERTIFIED}
        return {holder: pair for holder, pair in found.items() if pair is not None}

    def _sign_due(self, authority: _Pair) -> Sequence[str]:
        now, held = self._clock.now(), self._held()
        good = {holder for holder, pair in held.items() if authority.signed(pair) and not pair.is_due(now)}
        return self._sign(authority, [holder for holder in CERTIFIED if holder not in good])

    def _sign(self, authority: _Pair, holders: Sequence[str]) -> Sequence[str]:
        for holder in holders:
            write_private(self._data.certificate(holder), _new_certificate(holder, authority, self._clock.now()).pem)
        return holders


def _new_authority(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own, so that two of them side by side are told apart.
    name = _name(f"Comitia mesh {serial:x}"[:64])
    usage = x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _begun(name, key, now, AUTHORITY_LIFE, serial)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA256())
    )
    return _Pair(key, certificate)


def _new_certificate(holder: str, authority: _Pair, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"{holder}.comitia"
    ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _begun(_name(name), key, now, CERTIFICATE_LIFE, x509.random_serial_number())
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(ends), critical=False)
        .sign(authority.key, SHA256())
    )
    return _Pair(key, certificate)


def _begun(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _read(path: Path) -> _Pair | None:
    """Reads a pair; None where there is none, or what is there is none."""
    try:
        content = path.read_bytes()
        key: Any = load_pem_private_key(content, password=None)
        [certificate] = x509.load_pem_x509_certificates(content)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    fits = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
    return _Pair(key, certificate) if fits else None


@contextmanager
def _locked(data: DataDir) -> Iterator[None]:
    """Keeps other processes from writing. Raises: LauncherError: this mesh has no certificates."""
    try:
        descriptor = os.open(data.tls, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as cause:
        raise LauncherError("this mesh has no certificates; start it with `comitia up --mtls`") from cause
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def certificates_of(data_dir: Path | None) -> MeshCertificates:
    """Gives the certificates of a data directory (None: the usual one), for a command."""
    return MeshCertificates(find_data_dir(data_dir, os.environ), clock=SystemClock(), report=lambda _: None)
