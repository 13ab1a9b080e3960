"""JSON of callers, written into messages."""

from typing import Any

from google.protobuf import json_format, struct_pb2

from comitia_sdk.errors import InvalidRequest


def parse_input(field: str, value: Any, into: struct_pb2.Struct | struct_pb2.Value) -> None:
    """Writes JSON. Raises: InvalidRequest: it is none."""
    try:
        json_format.ParseDict(value, into)
    except (json_format.ParseError, TypeError, ValueError) as cause:
        raise InvalidRequest(f"{field}: must be JSON; {cause}", reason="INVALID_FIELD", field=field) from cause
