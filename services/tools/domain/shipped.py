"""The tools that ship with the mesh, for every tenant."""

from dataclasses import replace
from typing import Final
from uuid import UUID, uuid5

from services.meshkit.core.ids import from_uuid
from services.tools.domain.tool import CALCULATOR, HTTP_GET, MAX_RESPONSE_BYTES, HttpGetSettings, Mode, Tool

#: Shipped tools have the same id in every mesh.
_NAMESPACE: Final = UUID("0190a000-0000-7000-8000-000000000070")

_CALCULATOR: Final = Tool(
    name=CALCULATOR,
    description=(
        "Computes an arithmetic expression exactly. Knows numbers, + - * / // % ** and parentheses, the functions"
        " abs, min, max, round, floor, ceil, sqrt, exp, ln, log10 and the constants pi and e."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1_000,
                "description": "What to compute, such as (12.5 + 7) * 3 or sqrt(2) ** 4.",
            }
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
    mode=Mode.BUILTIN,
    builtin=CALCULATOR,
    rate_limit_per_minute=6_000,
    timeout_seconds=5,
)

_HTTP_GET: Final = Tool(
    name=HTTP_GET,
    description="Fetches a web page or a JSON document by its URL with HTTP GET and gives its text.",
    input_schema={
        "type": "object",
        "properties": {
            "url": {
                "type": "string",
                "minLength": 1,
                "maxLength": 2_048,
                "description": "Address to fetch, with http:// or https://.",
            }
        },
        "required": ["url"],
        "additionalProperties": False,
    },
    mode=Mode.BUILTIN,
    builtin=HTTP_GET,
    rate_limit_per_minute=600,
    timeout_seconds=20,
)


def shipped_tools(http_hosts: tuple[str, ...]) -> tuple[Tool, ...]:
    """Gives the shipped tools, by name.

    Args:
        http_hosts: hosts that `http_get` may ask; none means no host at all.
    """
    http = replace(_HTTP_GET, http_get=HttpGetSettings(allowed_hosts=http_hosts, max_response_bytes=MAX_RESPONSE_BYTES))
    checked = (tool.checked() for tool in (_CALCULATOR, http))
    return tuple(
        replace(tool, id=from_uuid("tool", uuid5(_NAMESPACE, tool.reference)))
        for tool in sorted(checked, key=lambda tool: tool.name)
    )
