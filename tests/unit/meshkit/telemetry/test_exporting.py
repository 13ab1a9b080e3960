"""Spans leave by a bounded queue: nobody waits for the collector, and below an unrecorded caller none begin."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from prometheus_client import REGISTRY

from services.meshkit.telemetry import names
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope, scoped
from services.meshkit.telemetry.tracing import (
    Attributes,
    end_tracing,
    past_span,
    planned_span,
    planned_traceparent,
    received_traceparent,
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


def test_below_an_unrecorded_caller_nothing_is_recorded_nor_found_out(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url)
    unrecorded = f"00-{'a' * 32}-{'b' * 16}-00"

    def found_out() -> Attributes:
        raise AssertionError("nobody needs it")

    with span(names.SPAN_CALL, traceparent=unrecorded, attributes=found_out) as call:
        with span(names.SPAN_TOOL, attributes=found_out) as tool:
            assert (call.on, tool.on, current_scope().traceparent) == (False, False, unrecorded)
        past_span("shared", traceparent=unrecorded, began=span_began(), attributes=found_out)
        planned_span(names.SPAN_TURN, traceparent=unrecorded, began=NOON, ended=NOON, attributes=found_out)
    assert current_scope().traceparent == ""
    end_tracing()
    assert receiver.spans == []


def test_below_a_recorded_caller_everything_is_recorded_whatever_this_service_would_decide(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url, ratio=0.0)
    recorded = f"00-{'a' * 32}-{'b' * 16}-01"
    with span(names.SPAN_CALL, traceparent=recorded) as call, span(names.SPAN_TOOL) as tool:
        past_span("shared", traceparent=current_scope().traceparent, began=span_began())
        assert call.on
        tool.tell({names.ATTRIBUTE_STAGE: "BEFORE"})
    end_tracing()
    found = {seen.name: seen for seen in receiver.spans}
    assert found[names.SPAN_CALL].parent_id == "b" * 16
    assert found[names.SPAN_TOOL].parent_id == found[names.SPAN_CALL].span_id
    assert found["shared"].parent_id == found[names.SPAN_TOOL].span_id
    assert found[names.SPAN_TOOL].attributes[names.ATTRIBUTE_STAGE] == "BEFORE"
    assert {seen.trace_id for seen in receiver.spans} == {"a" * 32}


def test_a_trace_that_begins_unrecorded_is_passed_on_as_such(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url, ratio=0.0)
    with span(names.SPAN_TOOL) as recorded:
        begun = current_scope()
        assert (recorded.on, begun.traceparent[-3:], len(begun.trace_id)) == (False, "-00", 32)
        with span(names.SPAN_CALL):
            assert current_scope() == begun
    assert current_scope().trace_id == ""
    end_tracing()
    assert receiver.spans == []


def test_what_a_block_finds_out_about_whom_it_works_for_outlives_its_span(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url)
    for traceparent in (f"00-{'a' * 32}-{'b' * 16}-00", f"00-{'a' * 32}-{'b' * 16}-01"):
        with span(names.SPAN_CALL, traceparent=traceparent):
            enter_scope(current_scope().on_behalf_of("run_2"))
        assert current_scope() == Scope(service="tools", correlation_id="run_2")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("flags", ["00", "01"])
def test_callers_do_not_choose_whether_they_are_recorded(receiver: Receiver, flags: str, ratio: float) -> None:
    setup_tracing("tools", receiver.url, ratio=ratio)
    said = f"00-{'a' * 32}-{'b' * 16}-{flags}"
    with span(names.SPAN_TOOL, traceparent=received_traceparent(said, neighbour=False)):
        assert current_scope().trace_id == "a" * 32
    end_tracing()
    assert len(receiver.spans) == ratio


def test_of_a_turn_either_all_is_recorded_or_nothing(receiver: Receiver) -> None:
    setup_tracing("tools", receiver.url, ratio=0.25, random=Random(1))
    for number in range(200):
        trace = planned_traceparent(str(number))
        for part in (names.SPAN_CALL, names.SPAN_TOOL):
            with span(part, traceparent=trace):
                pass
        planned_span(names.SPAN_TURN, traceparent=planned_traceparent(str(number)), began=NOON, ended=NOON)
    end_tracing()
    counted = Counter(seen.trace_id for seen in receiver.spans)
    assert set(counted.values()) == {3}
    assert 30 <= len(counted) <= 75
