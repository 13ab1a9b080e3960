"""What a door tells of a failure leads to the trace of the request."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from aiohttp.test_utils import make_mocked_request

from services.inference.transport.doors.errors import Dialect
from services.inference.transport.doors.routes import Doors
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.call import Drain
from services.meshkit.grpc.identity import TokenMissing
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.contract.wire.test_meshkit_server import GUARDS

TRACE = "a" * 32


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """The output that a test captures is closed with it."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**configured)


@pytest.mark.parametrize("failure", [TokenMissing("no key"), ZeroDivisionError("a plan of nobody")])
async def test_lines_of_a_failure_carry_the_trace_of_the_request(
    failure: Exception, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def refuse(*_: object, **__: object) -> Any:
        raise failure

    setup_logs("info")
    door: Any = SimpleNamespace(rpc=next(iter(GUARDS)), dialect=Dialect.OPENAI)
    doors = Doors(
        {("POST", "/v1/things"): door},
        admission=MeshKeys.make(tmp_path, clock=SystemClock()).admission(GUARDS),
        keys=cast(Any, refuse),
        room=cast(Any, None),
        drain=Drain(),
        clock=SystemClock(),
        ids=SystemIds(),
    )
    answer = await doors(
        make_mocked_request("POST", "/v1/things", headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"})
    )
    assert answer.status >= 400
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["trace_id"] for line in lines] == [TRACE] * len(lines)
    assert "request failed" in [line["event"] for line in lines]
