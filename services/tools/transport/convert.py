"""Proto to domain and back, pure."""

from typing import Final

from comitia.tools.v1 import tool_service_pb2 as pb
from services.meshkit.content import Integrity, Label
from services.meshkit.content.label import Confidentiality
from services.meshkit.content.proto import label_from_proto, parts_to_proto, struct_from_dict, struct_to_dict
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.tools.domain.invocation import Invocation
from services.tools.domain.tool import HttpGetSettings, Mode, Tool
from services.tools.domain.tool_rule import ToolRule
from services.tools.usecases.search_tools import Found, Query

_MODES: Final = {Mode.BUILTIN: pb.EXECUTION_MODE_BUILTIN, Mode.HTTP_GET: pb.EXECUTION_MODE_HTTP_GET}
_MODE_OF: Final = {number: mode for mode, number in _MODES.items()}
#: The least label of what comes from outside of the mesh: a caller vouches for itself, not for the operator.
_FROM_OUTSIDE: Final = Label(integrity=Integrity.USER, confidentiality=Confidentiality.PUBLIC)

InvokeLike = pb.InvokeToolRequest | pb.StreamInvokeToolRequest


def tool_from_proto(message: pb.Tool) -> Tool:
    """Reads a definition; what is output only is ignored.

    Raises: Invalid: a mode that does not exist, or a schema that is no JSON.
    """
    mode = _MODE_OF.get(message.execution_mode)
    if mode is None:
        raise Invalid("tool.execution_mode", "must be one of BUILTIN, HTTP_GET")
    http = None
    if message.HasField("http_get"):
        http = HttpGetSettings(
            url_template=message.http_get.url_template,
            allowed_hosts=tuple(message.http_get.allowed_hosts),
            max_response_bytes=message.http_get.max_response_bytes,
        )
    output_schema = (
        struct_to_dict(message.output_schema, field="tool.output_schema") if message.HasField("output_schema") else None
    )
    return Tool(
        name=message.name,
        version=message.version,
        description=message.description,
        input_schema=struct_to_dict(message.input_schema, field="tool.input_schema"),
        output_schema=output_schema,
        mode=mode,
        builtin=message.builtin,
        http_get=http,
        auth_reference=message.auth_reference,
        rate_limit_per_minute=message.rate_limit_per_minute,
        cost=NanoUsd(message.cost_nano_usd),
        allowed_agents=tuple(message.allowed_agents),
        timeout_seconds=message.timeout_seconds,
        cache_ttl_seconds=message.cache_ttl_seconds,
    )


def tool_to_proto(tool: Tool, rule: ToolRule) -> pb.Tool:
    """Writes a version as it is stored, and what the tenant's rule says of it."""
    message = pb.Tool(
        tool_id=tool.id,
        name=tool.name,
        version=tool.version,
        description=tool.description,
        input_schema=struct_from_dict(dict(tool.input_schema), field="input_schema"),
        execution_mode=_MODES[tool.mode],
        builtin=tool.builtin,
        auth_reference=tool.auth_reference,
        rate_limit_per_minute=tool.rate_limit_per_minute,
        cost_nano_usd=tool.cost,
        allowed_agents=tool.allowed_agents,
        timeout_seconds=tool.timeout_seconds,
        cache_ttl_seconds=tool.cache_ttl_seconds,
        digest=tool.digest.hex(),
        forbidden=not rule.allows(tool),
    )
    if tool.output_schema is not None:
        message.output_schema.CopyFrom(struct_from_dict(dict(tool.output_schema), field="output_schema"))
    if tool.http_get is not None:
        http = tool.http_get
        message.http_get.CopyFrom(
            pb.HttpGetSettings(
                url_template=http.url_template,
                allowed_hosts=http.allowed_hosts,
                max_response_bytes=http.max_response_bytes,
            )
        )
    if tool.create_time is not None:
        message.create_time.FromDatetime(tool.create_time)
    return message


def arguments_of(request: InvokeLike) -> dict[str, object]:
    """Reads the arguments of a call. Raises: Invalid: they hold a number that JSON has not."""
    return struct_to_dict(request.arguments, field="arguments")


def choice_of(request: InvokeLike, caller: Caller) -> Label:
    """Reads the label of what led to a call; that of an outside caller is raised to at least `USER`."""
    label = label_from_proto(request.choice_label)
    return label.joined(_FROM_OUTSIDE) if caller.peer is None else label


def invocation_to_proto(invocation: Invocation) -> pb.Invocation:
    """Writes a finished call."""
    return pb.Invocation(
        parts=parts_to_proto(invocation.parts),
        failed=invocation.failed,
        tool=invocation.tool,
        hold_id=invocation.hold_id,
        cost_nano_usd=invocation.cost_nano_usd,
        verdict_ids=invocation.verdict_ids,
        cached=invocation.cached,
        elapsed_us=invocation.elapsed_us,
        bundle_digest=invocation.bundle_digest,
    )


def event_to_proto(event: str | Invocation, sequence: int) -> pb.StreamInvokeToolResponse:
    """Writes an event of a stream."""
    if isinstance(event, str):
        return pb.StreamInvokeToolResponse(sequence=sequence, text_delta=event)
    return pb.StreamInvokeToolResponse(sequence=sequence, invocation=invocation_to_proto(event))


def query_of(request: pb.SearchToolsRequest) -> Query:
    """Reads what is looked for."""
    return Query(text=request.query, max_tokens=request.max_tokens, agent=request.agent_name, limit=request.limit)


def found_to_proto(found: Found) -> pb.SearchToolsResponse:
    """Writes what was found."""
    return pb.SearchToolsResponse(
        matches=[
            # What may not be called is not found.
            pb.SearchToolsResponse.Match(tool=tool_to_proto(match.tool, ToolRule()), score=match.score)
            for match in found.matches
        ],
        lexical_only=found.lexical_only,
    )
