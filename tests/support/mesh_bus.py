"""A look into the streams of a running mesh, for tests that check what services tell."""

from pathlib import Path

import nats
from nats.js.errors import NotFoundError

from services.launcher.embedded.nats import nats_url
from services.launcher.keys import read_secrets
from services.launcher.layout import DataDir, read_state
from services.meshkit.bus.subjects import service_stream


async def last_told(data_dir: Path, service: str, subject: str) -> bytes:
    """Gives the body of the newest message of a service on a subject; nothing when there is none yet."""
    data = DataDir(data_dir)
    connection = await nats.connect(nats_url(read_state(data)["ports"]["nats"], read_secrets(data, ["nats"])["nats"]))
    try:
        message = await connection.jetstream().get_last_msg(service_stream(service).name, subject)
    except NotFoundError:
        return b""
    finally:
        await connection.close()
    return message.data or b""
