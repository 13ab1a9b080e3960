"""Spans leave by a bounded queue: nobody waits for the collector, and all services record the same traces."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from services.meshkit.telemetry import names
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope, scoped
from services.meshkit.telemetry.tracing import (
    end_tracing,
    past_span,
    planned_span,
    planned_traceparent,
    setup_tracing,
    span,
    span_began,
)
from tests.support.otlp import Receiver, running_receiver

NOON = 1_767_268_800_000_000_000


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Gives a collector, and has this process record nothing any more afterwards."""
    with running_receiver() as running, scoped(service="tools", correlation_id="run_1"):
        yield running
        running.takes.set()
        end_tracing()


def fate(what: str) -> float:
    return REGISTRY.get_sample_value(names.SPANS_TOTAL, {"fate": what}) or 0.0


def test_calls_and_shared_work_lie_under_the_turn_that_was_known_by_its_name(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url)
    trace = planned_traceparent("run_1", "rounds/1/Ada", "0")
    with pytest.raises(KeyError), span(names.SPAN_CALL, traceparent=trace):
        past_span("shared", traceparent=current_scope().traceparent, began=span_began(), failed="BUDGET_EXHAUSTED")
        raise KeyError("a text that a user wrote")
    planned_span(names.SPAN_TURN, traceparent=trace, began=NOON, ended=NOON)
    end_tracing()
    found = {seen.name: seen for seen in receiver.spans}
    turn, call, shared = found[names.SPAN_TURN], found[names.SPAN_CALL], found["shared"]
    assert (turn.trace_id, turn.span_id, turn.parent_id) == (trace[3:35], trace[36:52], "")
    assert (call.parent_id, shared.parent_id) == (turn.span_id, call.span_id)
    assert (turn.failed, call.failed, shared.failed) == (False, True, True)
    assert call.attributes == {names.ATTRIBUTE_SERVICE: "tools", names.ATTRIBUTE_CORRELATION_ID: "run_1"}
    assert "user wrote" not in str(receiver.spans)


def test_no_proxy_of_the_environment_comes_between(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_grpc_proxy", "")
    monkeypatch.setenv("no_proxy", "")
    setup_tracing("tools", receiver.url)
    with span(names.SPAN_TOOL):
        pass
    end_tracing()
    assert [seen.name for seen in receiver.spans] == [names.SPAN_TOOL]


def test_a_full_queue_drops_and_counts_while_the_collector_is_slow(receiver: Receiver) -> None:
    receiver.takes.clear()
    exported, dropped = fate("exported"), fate("dropped")
    setup_tracing("tools", receiver.url, most_waiting=10)
    for _ in range(100):
        with span(names.SPAN_TOOL):
            pass
    receiver.takes.set()
    end_tracing()
    assert fate("dropped") - dropped >= 80
    assert fate("exported") - exported == len(receiver.spans) == 100 - (fate("dropped") - dropped)


def test_a_trace_that_is_not_recorded_is_passed_on_as_such(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url, ratio=0.0)
    sampled = planned_traceparent("run_1")
    with span(names.SPAN_TOOL, traceparent=sampled) as recorded:
        assert (recorded.on, current_scope().traceparent) == (False, sampled)
    with span(names.SPAN_TOOL):
        assert current_scope().traceparent.endswith("-00")
    assert current_scope().trace_id == ""
    end_tracing()
    assert receiver.spans == []


@pytest.mark.parametrize("flags", ["00", "01"])
def test_callers_do_not_choose_whether_they_are_recorded(receiver: Receiver, flags: str) -> None:
    setup_tracing("tools", receiver.url, ratio=0.25)
    for number in range(1, 201):
        with span(names.SPAN_TOOL, traceparent=f"00-{number:032x}-{number:016x}-{flags}"):
            pass
        enter_scope(Scope())
    end_tracing()
    assert 30 <= len(receiver.spans) <= 75


def test_services_record_the_same_traces_and_about_as_many_as_they_are_told(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url, ratio=0.25)
    for number in range(200):
        for part in (names.SPAN_CALL, names.SPAN_TOOL):
            with span(part, traceparent=planned_traceparent(str(number))):
                pass
            enter_scope(Scope())
    end_tracing()
    counted = [sum(seen.trace_id == trace for seen in receiver.spans) for trace in {s.trace_id for s in receiver.spans}]
    assert set(counted) == {2}
    assert 30 <= len(counted) <= 75
