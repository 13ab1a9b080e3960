"""The users of NATS that docs/events.md gives to listeners hear of their tenant and of nobody else, and say nothing."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from services.meshkit.bus.bus import bus
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.orchestrator.clients.run_events import STREAM
from tests.integration.conftest import RunNats, free_port

PAGE = Path(__file__).parents[3] / "docs" / "events.md"
OWN, OTHER = (TenantId(SystemIds().uuid()) for _ in range(2))


@pytest.fixture
def port() -> Iterator[int]:
    found = re.search(r"```\n( *authorization: .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    users = found[1].replace("…", "secret").replace("<tenant>", str(OWN))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="comitia-nats-") as folder:
        config = Path(folder) / "nats.conf"
        config.write_text(f'host: "127.0.0.1"\nport: {port}\njetstream {{ store_dir: "{folder}/store" }}\n{users}')
        with RunNats(config, port):
            yield port


def subject(tenant: TenantId) -> str:
    return f"comitia.orchestrator.run.started.v1.{tenant}"


async def test_a_listener_hears_of_its_tenant_alone_and_can_publish_nothing(port: int) -> None:
    refused: list[str] = []
    done = asyncio.Event()

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())
        if len(refused) == 3:
            done.set()

    listener: Client = await nats.connect(
        f"nats://dashboard:secret@127.0.0.1:{port}", error_cb=note, allow_reconnect=False
    )
    async with bus(f"nats://mesh:secret@127.0.0.1:{port}", streams=[STREAM]) as mesh:
        await mesh.wait_connected()
        own = await listener.subscribe(f"comitia.orchestrator.run.*.v1.{OWN}")
        every = await listener.subscribe("comitia.>")
        live = await listener.subscribe("_INBOX.>")
        await listener.publish(subject(OWN), b"forged")
        await listener.flush()
        await mesh.publish(subject(OTHER), b"other", msg_id="1")
        await mesh.publish(subject(OWN), b"own", msg_id="2")
        assert (await own.next_msg(timeout=5)).data == b"own"
        await listener.flush()
        assert (every.pending_msgs, live.pending_msgs, own.pending_msgs) == (0, 0, 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert sum("permissions violation for subscription" in one for one in refused) == 2
    assert sum("permissions violation for publish" in one for one in refused) == 1
    await listener.close()
