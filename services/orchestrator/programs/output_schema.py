"""What the output of a node must look like. Nothing outside of a schema is ever fetched for it."""

import json
import re
from collections.abc import Mapping
from typing import Final, cast

import jsonschema_rs
from google.protobuf import struct_pb2

from services.meshkit.documents.schema import checking_cost
from services.orchestrator.programs.values import Json, NotJson, ValueTooLarge, to_value

#: A text that is one block of code and nothing else, as models like to answer.
_FENCED: Final = re.compile(r"\s*```[A-Za-z]*\s*\n(?P<inside>.*)```\s*", re.DOTALL)


def json_in(text: str) -> Json:
    """Reads JSON: the whole text, or the whole of one block of code. Raises: ValueError, RecursionError."""
    fenced = _FENCED.fullmatch(text)
    return json.loads(fenced["inside"] if fenced else text)


class OutputBreaksSchema(Exception):
    """An output is not what its node promises. The sentence is the same in every release, and holds no value."""

    reason = "OUTPUT_BREAKS_SCHEMA"


class OutputSchema:
    """A schema that is ready to check outputs.

    Args:
        schema: one that was checked when the workflow was created.
    """

    def __init__(self, schema: Mapping[str, Json]) -> None:
        self.text: Final = json.dumps(schema, ensure_ascii=False, sort_keys=True)
        self._cost: Final = checking_cost(schema)
        self._validator: Final = jsonschema_rs.validator_for(
            dict(schema), pattern_options=jsonschema_rs.RegexOptions(), mask="it", offline=True
        )

    def check(self, value: Json) -> None:
        """Refuses what does not fit. Raises: OutputBreaksSchema."""
        if self._cost.too_much(value):
            raise OutputBreaksSchema("the output is too large to be held against output_schema")
        # Whatever JSON holds.
        known = cast("dict[str, object]", value)
        if self._validator.is_valid(known):
            return
        error = next(self._validator.iter_errors(known))
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        raise OutputBreaksSchema(f"the output does not fit output_schema at {place or 'its top'}")

    def read(self, text: str) -> struct_pb2.Value:
        """Gives the JSON that an answer holds: the whole text, or the whole of one block of code.

        Raises: OutputBreaksSchema.
        """
        try:
            value = json_in(text)
            message = to_value(value)
        except (RecursionError, ValueTooLarge) as cause:
            raise OutputBreaksSchema("the answer is larger, or nested deeper, than an output may be") from cause
        except (ValueError, NotJson) as cause:
            raise OutputBreaksSchema("the answer is no JSON, which output_schema asks for") from cause
        self.check(value)
        return message
