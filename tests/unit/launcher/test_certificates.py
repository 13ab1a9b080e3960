import asyncio
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from services.launcher.certificates import AUTHORITY_LIFE, CERTIFICATE_LIFE, SETTLE, MeshCertificates
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.options import Progress, StepState
from services.launcher.services import CERTIFIED
from services.meshkit.grpc.tls import MeshTls, TlsFiles
from services.meshkit.testing.fake_clock import FakeClock

MINUTE = timedelta(minutes=1)


class Room:
    """A mesh that has certificates and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.data = DataDir(folder)
        self.clock = FakeClock()
        self.told: list[Progress] = []
        self.certificates = MeshCertificates(self.data, clock=self.clock, report=self.told.append)

    def pass_by(self, time: timedelta) -> None:
        self.clock.advance(seconds=time.total_seconds())

    def shown(self) -> dict[str, x509.Certificate]:
        return {holder: certificate_in(self.data.certificate(holder)) for holder in CERTIFIED}

    def believed(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.data.authorities.read_bytes())

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.data.tls.iterdir()}

    def until_exchanged(self) -> int:
        """Looks again and again until one authority is believed; gives how often."""
        for looks in range(1, 100):
            self.pass_by(timedelta(seconds=1))
            self.certificates.tend()
            if len(self.believed()) == 1:
                return looks
        raise AssertionError("the exchange does not end")


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def is_signed_by(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    return certificate.issuer in [one.subject for one in authorities]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    room = Room(tmp_path)
    room.certificates.start()
    return room


def test_each_service_and_the_edge_have_a_certificate_that_names_them(room: Room) -> None:
    [authority] = room.believed()
    for holder, certificate in room.shown().items():
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{holder}.comitia"]
        certificate.verify_directly_issued_by(authority)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not basic.ca
        assert certificate.not_valid_after_utc == room.clock.now() + CERTIFICATE_LIFE
    assert authority.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).critical


def test_only_their_owner_reads_them(room: Room) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in room.data.tls.iterdir()} == {0o600}
    assert stat.S_IMODE(room.data.tls.stat().st_mode) == 0o700
    assert b"PRIVATE" not in room.data.authorities.read_bytes()


def test_the_services_read_what_the_launcher_makes(room: Room) -> None:
    own = room.data.certificate("cost")
    files = TlsFiles(certificate=own, key=own, authorities=room.data.authorities)
    tls = MeshTls(files, service="cost", neighbours={"127.0.0.1:1": "policy"}, clock=room.clock)
    room.pass_by(MINUTE)
    room.certificates.renew()
    assert tls.refresh() == 2
    assert tls.server_name("127.0.0.1:1") == "policy.comitia"


def test_a_second_start_changes_nothing(room: Room) -> None:
    before = room.files()
    room.pass_by(MINUTE)
    room.certificates.start()
    assert room.files() == before


def test_certificates_are_renewed_when_a_third_of_their_life_is_left(room: Room) -> None:
    before = room.files()
    room.pass_by(CERTIFICATE_LIFE * 2 / 3 - MINUTE)
    assert room.certificates.tend() == []
    assert room.files() == before
    room.pass_by(2 * MINUTE)
    assert room.certificates.tend() == list(CERTIFIED)
    assert all(one.not_valid_after_utc == room.clock.now() + CERTIFICATE_LIFE for one in room.shown().values())
    assert room.files()["authorities.pem"] == before["authorities.pem"]


def test_what_is_damaged_is_made_anew(room: Room) -> None:
    room.data.certificate("cost").write_bytes(b"no PEM")
    room.data.certificate("tools").write_bytes(room.data.certificate("policy").read_bytes()[:300])
    room.data.certificate("edge").unlink()
    assert sorted(room.certificates.tend()) == ["cost", "edge", "tools"]


def test_at_each_moment_of_an_exchange_all_believe_what_all_show(room: Room) -> None:
    """Also what was shown or believed up to some seconds ago, for those who look at their files a little later."""
    [old] = room.believed()
    room.certificates.exchange_authority()
    history = [(room.believed(), room.shown())]
    for _ in range(3 * int(SETTLE.total_seconds())):
        room.pass_by(timedelta(seconds=1))
        room.certificates.tend()
        history.append((room.believed(), room.shown()))
    late = int(SETTLE.total_seconds()) - 1
    for moment, (believed, shown) in enumerate(history):
        for past_believed, past_shown in history[max(0, moment - late) : moment + 1]:
            assert all(is_signed_by(one, believed) for one in past_shown.values())
            assert all(is_signed_by(one, past_believed) for one in shown.values())
    [new] = room.believed()
    assert new.subject != old.subject
    assert not room.data.next_authority.exists()
    [new_key_holder] = [one for one in room.certificates.states() if one.holder == "authority"]
    assert new_key_holder.serial == f"{new.serial_number:x}"


def test_an_authority_is_exchanged_when_a_third_of_its_life_is_left(room: Room) -> None:
    [old] = room.believed()
    room.pass_by(AUTHORITY_LIFE * 2 / 3 + MINUTE)
    room.certificates.tend()
    assert [one.subject for one in room.believed()][:1] == [old.subject]
    assert len(room.believed()) == 2
    assert room.until_exchanged() <= 3 * SETTLE.total_seconds()
    assert not is_signed_by(old, room.believed())


def test_one_exchange_at_a_time(room: Room) -> None:
    room.certificates.exchange_authority()
    with pytest.raises(LauncherError, match="exchanged already"):
        room.certificates.exchange_authority()
    room.until_exchanged()
    room.certificates.exchange_authority()


def test_an_exchange_that_was_cut_short_goes_on(room: Room) -> None:
    room.certificates.exchange_authority()
    room.pass_by(SETTLE + MINUTE)
    # What a launcher leaves that ends between the two: the new one signs, and nothing is signed by it.
    room.data.next_authority.replace(room.data.authority)
    assert room.certificates.tend() == list(CERTIFIED)
    room.until_exchanged()
    assert all(is_signed_by(one, room.believed()) for one in room.shown().values())


def test_a_start_ends_an_exchange_at_once_for_nothing_runs(room: Room) -> None:
    room.certificates.exchange_authority()
    room.certificates.start()
    [authority] = room.believed()
    assert all(is_signed_by(one, [authority]) for one in room.shown().values())
    assert not room.data.next_authority.exists()


def test_a_start_after_years_makes_everything_anew(room: Room) -> None:
    room.pass_by(10 * AUTHORITY_LIFE)
    room.certificates.start()
    [authority] = room.believed()
    assert authority.not_valid_after_utc == room.clock.now() + AUTHORITY_LIFE
    assert all(is_signed_by(one, [authority]) for one in room.shown().values())


def test_a_mesh_without_certificates_says_how_to_get_some(tmp_path: Path) -> None:
    certificates = Room(tmp_path).certificates
    assert certificates.states() == ()
    for what in (certificates.renew, certificates.exchange_authority):
        with pytest.raises(LauncherError, match="comitia up --mtls"):
            what()


async def test_what_cannot_be_renewed_is_said_once_and_tried_again(room: Room) -> None:
    authority = room.data.authority.read_bytes()
    following = asyncio.create_task(room.certificates.follow())

    async def look() -> None:
        await room.clock.until_someone_sleeps()
        room.pass_by(MINUTE)
        await room.clock.until_someone_sleeps()

    room.data.authority.write_bytes(b"no PEM")
    room.data.certificate("cost").unlink()
    await look()
    await look()
    assert [step.state for step in room.told] == [StepState.FAILED]
    room.data.authority.write_bytes(authority)
    await look()
    assert [(step.state, step.detail) for step in room.told[1:]] == [(StepState.DONE, "renewed: cost")]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
