"""The hash of an event of a run, which every language can make."""

import json
import re
from pathlib import Path
from typing import Final

import jsonschema_rs
import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict, Parse, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1.run_event_pb2 import RunEvent
from comitia_sdk.record.run_event import EventUnreadable, canonical_event, envelope_sha256, is_whole
from services.orchestrator.engine.run_events import KINDS

PAGE: Final = Path(__file__).parents[3] / "docs" / "events.md"


def an_event(**fields: object) -> RunEvent:
    return RunEvent(
        **{  # type: ignore[arg-type]
            "event_id": "run_01jd0000000000000000000000/7",
            "tenant_id": "tenant_01jd0000000000000000000000",
            "run_id": "run_01jd0000000000000000000000",
            "sequence": 7,
            "kind": "turn_recorded",
            "event_time": Timestamp(seconds=1_800_000_000, nanos=120_000_000),
            "path": "rounds/1/Athena",
            "agent": "Athena@1.0.0",
            "cost_nano_usd": 2**53 + 1,
            **fields,
        }
    )


@pytest.mark.parametrize(
    "event",
    [
        RunEvent(),
        an_event(),
        an_event(event_time=None, path='a "quoted" path\n\x7f\x01 é 🜚', reason="LAW_BLOCKED"),
        an_event(
            kind="started", program="graph", workflow="w@1.0.0", parent_run_id="run_x", forked_from_run_id="run_y"
        ),
    ],
)
def test_the_hashed_form_is_the_canonical_json_that_protobuf_writes(event: RunEvent) -> None:
    assert canonical_event(event) == rfc8785.dumps(MessageToDict(event, preserving_proto_field_name=True))


@pytest.mark.parametrize("name", [name for name in RunEvent.DESCRIPTOR.fields_by_name if name != "envelope_sha256"])
def test_every_field_but_the_hash_is_hashed(name: str) -> None:
    value = {"event_time": "2026-11-21T15:40:00Z", "sequence": 9, "cost_nano_usd": 9}.get(name, "x")
    assert envelope_sha256(ParseDict({name: value}, RunEvent())) != envelope_sha256(RunEvent())


def test_an_event_that_was_changed_on_its_way_is_not_whole() -> None:
    event = an_event()
    event.envelope_sha256 = envelope_sha256(event)
    assert is_whole(RunEvent.FromString(event.SerializeToString()))
    event.cost_nano_usd += 1
    assert not is_whole(event)
    assert not is_whole(an_event())


def test_an_event_with_fields_of_a_later_release_is_neither_whole_nor_wrong() -> None:
    event = an_event()
    event.envelope_sha256 = envelope_sha256(event)
    with pytest.raises(EventUnreadable):
        is_whole(RunEvent.FromString(event.SerializeToString() + b"\xfa\x01\x01x"))


def the_example() -> str:
    shown = re.search(r"```json\n(.+?)\n```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    return shown[1]


def test_the_page_about_events_shows_a_hash_that_holds() -> None:
    assert is_whole(Parse(the_example(), RunEvent()))


def test_the_schema_of_events_takes_the_example_and_has_every_field_and_kind() -> None:
    schema = json.loads((PAGE.parent / "events.schema.json").read_text())
    assert set(schema["properties"]) == set(RunEvent.DESCRIPTOR.fields_by_name)
    assert set(schema["properties"]["kind"]["examples"]) == KINDS
    schema_of = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    schema_of.validate(json.loads(the_example()))
    assert not schema_of.is_valid(json.loads(the_example().replace('"7"', "7")))
