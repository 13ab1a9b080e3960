"""The certificate that callers see is exchanged as Kubernetes exchanges a Secret, while the edge runs."""

import asyncio
import os
import ssl
from pathlib import Path

from services.launcher.edge import ServingCertificate
from services.meshkit.core.clock import SystemClock
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.authority import Authority
from tests.support.edge import edge_settings, running_edge


def mounts(authority: Authority, folder: Path, version: str) -> bytes:
    """Mounts a new certificate over the old one, as the kubelet does: by one rename of a link. Gives it, DER."""
    held = folder / f"..{version}"
    held.mkdir(parents=True)
    certificate, key = authority.signs("edge")
    (held / "tls.crt").write_bytes(certificate)
    (held / "tls.key").write_bytes(key)
    (folder / "..data_tmp").symlink_to(held.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not os.path.lexists(folder / name):
            (folder / name).symlink_to(Path("..data", name))
    return ssl.PEM_cert_to_DER_cert(certificate.decode())


async def shown(address: str) -> bytes:
    """Gives the certificate that a caller is shown, DER."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


async def test_callers_are_shown_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    authority, folder = Authority(), tmp_path / "tls"
    keys = MeshKeys.make(tmp_path, clock=SystemClock())
    first = mounts(authority, folder, "first")
    files = ServingCertificate(
        secret=tmp_path / "serving.yaml", certificate_chain=folder / "tls.crt", private_key=folder / "tls.key"
    )
    settings = edge_settings({}, jwks=keys.jwks_path, log=tmp_path / "access.log", tls=files)
    async with running_edge(settings, tmp_path) as edge:
        assert await shown(edge.address) == first
        second = mounts(authority, folder, "second")
        async with asyncio.timeout(10):
            while await shown(edge.address) != second:  # noqa: ASYNC110  # another process cannot set an event
                await asyncio.sleep(0.05)
