"""Builders of tools."""

from typing import Any

from services.tools.domain.tool import HttpGetSettings, Mode, Tool

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
    "additionalProperties": False,
}


def a_tool(**changes: Any) -> Tool:
    """A calculator by another name, as it would be sent."""
    values: dict[str, Any] = {
        "name": "sums",
        "description": "Adds numbers.",
        "input_schema": {"type": "object", "properties": {"expression": {"type": "string"}}},
        "mode": Mode.BUILTIN,
        "builtin": "calculator",
    }
    return Tool(**{**values, **changes})


def a_template(url: str = "https://api.example.com/weather/{city}", **changes: Any) -> Tool:
    """A tool that fills a URL."""
    hosts = changes.pop("allowed_hosts", ("api.example.com",))
    values: dict[str, Any] = {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "input_schema": SCHEMA,
        "mode": Mode.HTTP_GET,
        "builtin": "",
        "http_get": HttpGetSettings(url_template=url, allowed_hosts=hosts),
    }
    return a_tool(**{**values, **changes})
