"""Definitions as the canonical JSON that they are stored as."""

from typing import Final, cast

import msgspec

from services.meshkit.core.errors import Internal
from services.meshkit.core.money import NanoUsd
from services.tools.domain.tool import HttpGetSettings, Mode, Tool

#: From here on whole numbers are written as JSON only by way of floats, as which they came.
_FIRST_INEXACT: Final = 2**53


class _HttpGet(msgspec.Struct):
    url_template: str
    allowed_hosts: tuple[str, ...]
    max_response_bytes: int


class _Definition(msgspec.Struct):
    name: str
    version: str
    description: str
    # JSON Schemas, open by nature.
    input_schema: dict[str, object]
    output_schema: dict[str, object] | None
    mode: Mode
    builtin: str
    http_get: _HttpGet | None
    auth_reference: str
    rate_limit_per_minute: int
    cost_nano_usd: str
    allowed_agents: tuple[str, ...]
    timeout_seconds: int
    cache_ttl_seconds: int


def decode_definition(data: bytes) -> Tool:
    """Reads what `Tool.canonical` wrote."""
    try:
        row = msgspec.json.decode(data, type=_Definition)
    except msgspec.MsgspecError as cause:
        raise Internal("a stored definition of a tool cannot be read; its writer was newer or broken") from cause
    http = row.http_get
    return Tool(
        name=row.name,
        version=row.version,
        description=row.description,
        input_schema=_exact(row.input_schema),
        output_schema=None if row.output_schema is None else _exact(row.output_schema),
        mode=row.mode,
        builtin=row.builtin,
        http_get=None
        if http is None
        else HttpGetSettings(
            url_template=http.url_template,
            allowed_hosts=http.allowed_hosts,
            max_response_bytes=http.max_response_bytes,
        ),
        auth_reference=row.auth_reference,
        rate_limit_per_minute=row.rate_limit_per_minute,
        cost=NanoUsd(int(row.cost_nano_usd)),
        allowed_agents=row.allowed_agents,
        timeout_seconds=row.timeout_seconds,
        cache_ttl_seconds=row.cache_ttl_seconds,
    )


def _exact(schema: dict[str, object]) -> dict[str, object]:
    return cast("dict[str, object]", _numbers(schema))


def _numbers(value: object) -> object:
    if isinstance(value, int) and abs(value) >= _FIRST_INEXACT:
        return float(value)
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_numbers(item) for item in cast("list[object]", value)]
    return value
