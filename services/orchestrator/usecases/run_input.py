"""What a run may be started with: JSON within bounds that fits the workflow's schema."""

import json
from collections.abc import Mapping
from typing import Final

import jsonschema_rs

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.domain.errors import RunInputInvalid
from services.orchestrator.domain.run import MAX_INPUT_BYTES, Json
from services.orchestrator.programs.values import NotJson, ValueTooLarge, from_struct, to_struct

#: Sentences may quote what a schema lists.
_MOST_CHARACTERS: Final = 500


def check_size(given: Mapping[str, Json]) -> None:
    """Refuses what no run takes. Raises: RunInputInvalid."""
    try:
        to_struct(given)
        size = len(json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode())
    except (NotJson, ValueTooLarge) as cause:
        raise RunInputInvalid("input", str(cause)) from cause
    if size > MAX_INPUT_BYTES:
        raise RunInputInvalid("input", f"must have at most {MAX_INPUT_BYTES} bytes as JSON, has {size}")


def check_schema(workflow: workflow_pb2.Workflow, given: Mapping[str, Json]) -> None:
    """Refuses what does not fit the schema of a workflow, if it has one, by its first fault.

    Raises: RunInputInvalid: the field is that of the input, such as `input.items[1].price`.
    """
    if not workflow.HasField("input_schema"):
        return
    # It was checked when the workflow was created.
    validator = jsonschema_rs.validator_for(
        from_struct(workflow.input_schema), pattern_options=jsonschema_rs.RegexOptions(), mask="it", offline=True
    )
    if validator.is_valid(dict(given)):
        return
    fault = next(validator.iter_errors(dict(given)))
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path)
    raise RunInputInvalid(f"input{place}"[:_MOST_CHARACTERS], fault.message[:_MOST_CHARACTERS])
