"""Schemas of the tools that are called, compiled once each."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from services.tools.domain.schema import Schema, compile_schema
from services.tools.domain.tool import Tool

_MOST: Final = 512


class CompiledSchemas:
    """Keeps at most 512 compiled schemas; the one not used for longest goes."""

    def __init__(self) -> None:
        self._schemas: OrderedDict[tuple[bytes, str], Schema] = OrderedDict()

    def __len__(self) -> int:
        return len(self._schemas)

    def of_arguments(self, tool: Tool) -> Schema:
        """Gives the schema of a tool's arguments."""
        return self._get(tool, "input_schema", tool.input_schema)

    def of_result(self, tool: Tool) -> Schema | None:
        """Gives the schema of a tool's result, None when it has none."""
        return None if tool.output_schema is None else self._get(tool, "output_schema", tool.output_schema)

    def _get(self, tool: Tool, field: str, schema: Mapping[str, object]) -> Schema:
        key = (tool.digest, field)
        known = self._schemas.get(key)
        if known is None:
            known = self._schemas[key] = compile_schema(schema, field=field, object_only=field == "input_schema")
            if len(self._schemas) > _MOST:
                self._schemas.popitem(last=False)
        else:
            self._schemas.move_to_end(key)
        return known
