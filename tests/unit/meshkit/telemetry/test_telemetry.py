"""Log lines say whom they belong to; metrics are shown; labels stay few."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import REGISTRY

from services.meshkit.telemetry import metrics, names
from services.meshkit.telemetry.logs import logger, setup_logs
from services.meshkit.telemetry.metrics_page import metrics_page
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope, scoped
from services.meshkit.telemetry.tracing import received_traceparent, span


@pytest.fixture
def _logs() -> Iterator[None]:
    setup_logs("info")
    yield
    structlog.reset_defaults()


def test_the_size_of_a_bounded_map_is_what_it_holds_when_one_looks() -> None:
    kept = {"a": 1}
    metrics.show_size("test.kept", kept, size_bytes=lambda: 7 * len(kept))
    kept["b"] = 2
    shown = [REGISTRY.get_sample_value(name, {"cache": "test.kept"}) for name in (names.CACHE_ITEMS, names.CACHE_BYTES)]
    assert shown == [2, 14]


@pytest.mark.usefixtures("_logs")
def test_a_log_line_is_json_and_names_service_session_and_trace(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    setup_logs("info")
    with scoped(service="tools", correlation_id="run_1"):
        enter_scope(current_scope().within(f"00-{'ab' * 16}-{'cd' * 8}-00"))
        logger(__name__).info("run cancelled", steps_left=3)
        logger(__name__).debug("not written")
    (line,) = capfdbinary.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["event"], said["steps_left"], said["level"]) == ("run cancelled", 3, "info")
    assert (said["service"], said["correlation_id"], said["trace_id"]) == ("tools", "run_1", "ab" * 16)


async def test_tasks_started_within_a_scope_carry_it() -> None:
    async def inside() -> Scope:
        return current_scope()

    with scoped(service="cost"):
        task = asyncio.create_task(inside())
    assert (await task).service == "cost"
    assert current_scope().service == ""


def test_a_trace_is_passed_on_even_when_nothing_is_recorded() -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    with scoped(), span(names.SPAN_TURN, traceparent=traceparent):
        assert (current_scope().trace_id, current_scope().traceparent) == ("a" * 32, traceparent)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        "00-zz",
        f"00-{'g' * 32}-{'b' * 16}-01",
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        "00-" + "a" * 9000,
    ],
)
def test_a_trace_that_is_none_is_not_passed_on(traceparent: str) -> None:
    for neighbour in (False, True):
        with scoped(), span(names.SPAN_TURN, traceparent=received_traceparent(traceparent, neighbour=neighbour)):
            assert (current_scope().trace_id, current_scope().traceparent) == ("", "")


async def test_the_metrics_page_shows_the_process() -> None:
    metrics.TOOL_INVOCATIONS.labels("calculator", "ok").inc()
    async with metrics_page("127.0.0.1:0") as port:
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
        with pytest.raises(urllib.error.HTTPError):
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/other")
    assert names.TOOL_INVOCATIONS_TOTAL.encode() in page


async def test_beside_the_metrics_a_probe_without_a_certificate_is_told_whether_the_service_takes_work() -> None:
    serving = False
    async with metrics_page("127.0.0.1:0", ready=lambda: serving) as port:

        def ask(path: str) -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code

        assert await asyncio.to_thread(ask, "/ready") == 503
        assert await asyncio.to_thread(ask, "/live") == 200
        serving = True
        assert await asyncio.to_thread(ask, "/ready") == 200


async def test_without_an_address_there_is_no_page() -> None:
    async with metrics_page(None) as port:
        assert port is None


def test_every_metric_has_a_base_unit_or_counts() -> None:
    said = [value for value in vars(names).values() if isinstance(value, str) and value.startswith("comitia_")]
    assert said
    assert not [name for name in said if name.endswith(("_ms", "_usd", "_kb"))]


def test_a_label_that_users_choose_stays_bounded() -> None:
    bounded = metrics.BoundedLabel(most=2)
    assert [bounded(name) for name in ("a", "b", "a", "c", "b", "d")] == ["a", "b", "a", "other", "b", "other"]


@pytest.mark.parametrize(
    "looks_like_an_id", ["run_01jd0000000000000000000000", "01900000-0000-7000-8000-00000000beef", "a" + "0" * 32]
)
def test_no_id_becomes_a_label(looks_like_an_id: str) -> None:
    assert metrics.BoundedLabel()(looks_like_an_id) == "other"
