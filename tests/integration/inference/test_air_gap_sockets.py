"""An air-gapped process, seen from outside: whom its sockets speak to, as the kernel lists them (what `ss` shows)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address

import psutil
import pytest

from comitia.inference.v1 import model_pb2, model_service_pb2
from services.meshkit.core.identity import Principal
from tests.faults.test_inference_kills import Process, environment_of
from tests.integration.inference.conftest import InferenceMesh, Surroundings, a_request
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Of nobody: from RFC 5737 and RFC 3849.
OUTSIDE = "203.0.113.7"
OUTSIDE_6 = "2001:db8::7"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@contextmanager
def peers_of(process: Process) -> Iterator[set[tuple[str, int]]]:
    """Collects whom the sockets of a process and of its children speak to, or want to, as often as that can be seen."""
    seen, stopped = set[tuple[str, int]](), threading.Event()

    def look() -> None:
        root = psutil.Process(process.pid)
        while not stopped.is_set():
            with suppress(psutil.NoSuchProcess):
                for one in (root, *root.children(recursive=True)):
                    seen.update((str(made.raddr.ip), made.raddr.port) for made in one.net_connections() if made.raddr)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        stopped.set()
        looking.join()


def is_this_machine(host: str) -> bool:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


async def test_no_socket_of_an_air_gapped_process_has_a_peer_outside(
    surroundings: Surroundings, fresh: Principal
) -> None:
    provider = surroundings.provider
    outside = {
        "COMITIA_INFERENCE_EGRESS": "mesh",
        "COMITIA_INFERENCE_PRIVATE_ENDPOINTS": "true",
        "COMITIA_INFERENCE_PROBE_SECONDS": "0.1",
        "COMITIA_INFERENCE_ANTHROPIC_API_KEY": KEY,
        "COMITIA_INFERENCE_ANTHROPIC_BASE_URL": f"http://{OUTSIDE}:9",
        **dict.fromkeys(PROXIES, f"http://{OUTSIDE}:3128"),
    }
    surrounded = environment_of(
        surroundings.urls, surroundings.keys, surroundings.folder, surroundings.law, provider, surroundings.money.target
    )
    process = Process({**surrounded, **outside})
    async with process.running() as channel:
        mesh = InferenceMesh(
            target=f"127.0.0.1:{process.port}",
            keys=surroundings.keys,
            urls=surroundings.urls,
            principal=fresh,
            law=surroundings.law,
            provider=provider,
            money=surroundings.money,
            channel=channel,
        )
        with peers_of(process) as peers:
            provider.next(Behaviour(status=307, headers=(("location", f"http://{OUTSIDE}/v1"),)))
            assert await mesh.refused("Generate", a_request()) == "precondition/EGRESS_REFUSED"
            by_name = a_request(model="anthropic/claude-haiku-4-5")
            assert await mesh.refused("Generate", by_name) == "precondition/EGRESS_REFUSED"
            request = model_service_pb2.CreateModelDeploymentRequest(
                name="acme/outside",
                version=model_pb2.ModelVersion(
                    adapter="openai", model="gpt-4o-mini", base_url=f"http://[{OUTSIDE_6}]:9/v1"
                ),
                api_key=KEY,
            )
            made = (await mesh.call("CreateModelDeployment", request)).deployment
            check = model_service_pb2.CheckModelVersionRequest(deployment_id=made.deployment_id, version=1)
            checked = (await mesh.call("CheckModelVersion", check)).version
            assert checked.state == model_pb2.MODEL_VERSION_STATE_REFUSED
            assert (await mesh.generate()).provider == "openai"
        inside = int(provider.address.rpartition(":")[2])
        assert inside in {port for _, port in peers}, "what is connected is seen"
        assert {host for host, _ in peers if not is_this_machine(host)} == set()
