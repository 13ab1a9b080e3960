"""What a run may be started with: JSON within bounds that fits the workflow's schema."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import workflow_pb2
from services.meshkit.documents.schema import Schema, compile_schema
from services.orchestrator.domain.errors import RunInputInvalid
from services.orchestrator.domain.run import MAX_INPUT_BYTES, Json
from services.orchestrator.programs.values import NotJson, ValueTooLarge, from_struct, to_struct

#: Sentences may quote what a schema lists.
_MOST_CHARACTERS: Final = 500
#: Compiled schemas that are kept.
_MOST_SCHEMAS: Final = 64


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
    fault = _compiled(workflow.input_schema.SerializeToString(deterministic=True)).problem(dict(given))
    if fault is not None:
        place, sentence = fault
        raise RunInputInvalid(f"input{place}"[:_MOST_CHARACTERS], sentence[:_MOST_CHARACTERS])


@lru_cache(maxsize=_MOST_SCHEMAS)
def _compiled(schema: bytes) -> Schema:
    # It was checked when the workflow was created.
    return compile_schema(from_struct(struct_pb2.Struct.FromString(schema)), object_only=True)
