"""Writes the OpenAPI 3.1 document of the REST face that Envoy transcodes, from `google.api.http` and the comments.

Fields keep their proto names in JSON, as the edge is configured to write them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from protos.codegen.contract import SERVICE, Contract, Rpc
from protos.codegen.errors import CodegenError
from protos.codegen.schemas import WELL_KNOWN, JsonObject, Schemas

VERBS = ("get", "put", "post", "delete", "patch")
#: A variable of a path template, `{name}` or `{name=pattern}`.
VARIABLE = re.compile(r"\{([^}=]+)(?:=([^}]*))?\}")
HTTP_BODY = ".google.api.HttpBody"
STATUS = ".google.rpc.Status"
#: What the mesh puts into `details` of an error.
DETAILS = ("BadRequest", "ErrorInfo", "PreconditionFailure", "QuotaFailure", "ResourceInfo", "RetryInfo")
#: How deep query parameters reach into nested messages.
QUERY_DEPTH = 3

DESCRIPTION = """Runs multi-agent LLM systems: agents, sessions, models, policy, memory, tools and cost.

Fields of type int64 are strings in JSON. Streams answer with server-sent events, one message each, and resume with
`after_sequence`. The tenant comes from the credentials, never from a field."""


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP rule of an RPC."""

    rpc: Rpc
    verb: str
    #: The path as OpenAPI writes it, `/v1/runs/{run_id}:cancel`.
    path: str
    #: Field paths in the template, in order.
    variables: tuple[str, ...]
    #: `*`, a field of the request, or empty for no body.
    body: str
    response_body: str
    #: 0 for the rule itself, then its additional bindings.
    position: int

    @property
    def operation_id(self) -> str:
        """Unique name of the operation."""
        name = f"{self.rpc.service.name}_{self.rpc.method.name}"
        return name if self.position == 0 else f"{name}_{self.position + 1}"


def render(contract: Contract, *, version: str) -> str:
    """The document as JSON. Raises CodegenError when two RPCs claim one route or a rule cannot be described."""
    schemas = Schemas(contract)
    paths: dict[str, JsonObject] = {}
    for route in sorted(routes(contract), key=lambda route: (route.path, VERBS.index(route.verb))):
        paths.setdefault(route.path, {})[route.verb] = _operation(route, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Comitia",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The edge of the mesh."}],
        "security": [{"bearer": []}, {"api_key": []}],
        "tags": _tags(contract, paths),
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token of the mesh, or an API key (`ck_…`).",
                },
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "An API key, `ck_…`.",
                },
            },
            "responses": {"Error": _error_response(schemas)},
            "schemas": schemas.components(),
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def routes(contract: Contract) -> list[Route]:
    """All routes of all RPCs. Raises CodegenError when two of them would answer the same request."""
    found: list[Route] = []
    claimed: dict[tuple[str, str], Route] = {}
    for rpc in contract.rpcs():
        for position, rule in enumerate(rpc.http):
            route = _route(rpc, rule, position)
            key = (route.verb, VARIABLE.sub("{}", route.path))
            if key in claimed:
                raise CodegenError(
                    f"{rpc.path} and {claimed[key].rpc.path} both answer to {route.verb.upper()} {route.path}. "
                    "Change one of their google.api.http rules."
                )
            claimed[key] = route
            found.append(route)
    return found


def _route(rpc: Rpc, rule: HttpRule, position: int) -> Route:
    verb = rule.WhichOneof("pattern")
    if verb not in VERBS:
        raise CodegenError(f"{rpc.path} has a google.api.http rule without one of {', '.join(VERBS)}.")
    if rpc.method.client_streaming:
        raise CodegenError(f"{rpc.path} takes a stream, which has no REST form. Remove its google.api.http.")
    template: str = getattr(rule, verb)
    return Route(
        rpc=rpc,
        verb=verb,
        path=VARIABLE.sub(r"{\1}", template),
        variables=tuple(match[1] for match in VARIABLE.finditer(template)),
        body=rule.body,
        response_body=rule.response_body,
        position=position,
    )


def _operation(route: Route, schemas: Schemas) -> JsonObject:
    rpc = route.rpc
    operation: JsonObject = {"operationId": route.operation_id, "tags": [rpc.service.name]}
    if rpc.comment:
        operation["summary"] = _first_sentence(rpc.comment)
        operation["description"] = rpc.comment
    if rpc.method.options.deprecated:
        operation["deprecated"] = True
    if parameters := [*_path_parameters(route, schemas), *_query_parameters(route, schemas)]:
        operation["parameters"] = parameters
    if body := _request_body(route, schemas):
        operation["requestBody"] = body
    operation["responses"] = {"200": _answer(route, schemas), "default": {"$ref": "#/components/responses/Error"}}
    if rpc.guard is not None and rpc.guard.open:
        operation["security"] = []
    elif rpc.guard is not None:
        operation["x-comitia-permission"] = rpc.guard.permission
    return operation


def _first_sentence(comment: str) -> str:
    paragraph = " ".join(comment.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", paragraph, maxsplit=1)[0].rstrip(".")


def _path_parameters(route: Route, schemas: Schemas) -> Iterator[JsonObject]:
    for variable in route.variables:
        yield _parameter(variable, "path", _schema_at(route, variable, schemas)) | {"required": True}


def _schema_at(route: Route, field_path: str, schemas: Schemas) -> JsonObject:
    type_name = route.rpc.method.input_type
    *parents, last = field_path.split(".")
    for parent in parents:
        message = schemas.message(type_name)
        type_name = message.proto.field[_position(route, type_name, parent, schemas)].type_name
    return schemas.field(schemas.message(type_name), _position(route, type_name, last, schemas))


def _position(route: Route, type_name: str, name: str, schemas: Schemas) -> int:
    for at, field in enumerate(schemas.message(type_name).proto.field):
        if field.name == name:
            return at
    raise CodegenError(
        f"{route.rpc.path}: google.api.http names `{name}`, which {type_name.lstrip('.')} does not have."
    )


def _query_parameters(route: Route, schemas: Schemas) -> Iterator[JsonObject]:
    if route.body != "*":
        taken = frozenset({*route.variables, route.body})
        yield from _query_fields(route.rpc.method.input_type, "", taken, QUERY_DEPTH, schemas)


def _query_fields(
    type_name: str, prefix: str, taken: frozenset[str], depth: int, schemas: Schemas
) -> Iterator[JsonObject]:
    message = schemas.message(type_name)
    for at, field in enumerate(message.proto.field):
        name = f"{prefix}{field.name}"
        if name in taken:
            continue
        is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
        if is_message and field.type_name not in WELL_KNOWN:
            # Lists and maps of messages have no form in a query.
            if field.label != FieldDescriptorProto.LABEL_REPEATED and depth > 1:
                yield from _query_fields(field.type_name, f"{name}.", taken, depth - 1, schemas)
        else:
            yield _parameter(name, "query", schemas.field(message, at))


def _parameter(name: str, place: str, schema: JsonObject) -> JsonObject:
    parameter: JsonObject = {"name": name, "in": place}
    if description := schema.pop("description", ""):
        parameter["description"] = description
    if schema.pop("deprecated", False):
        parameter["deprecated"] = True
    return parameter | {"schema": schema}


def _request_body(route: Route, schemas: Schemas) -> JsonObject | None:
    if not route.body:
        return None
    type_name = route.rpc.method.input_type
    if route.body != "*":
        schema = schemas.field(schemas.message(type_name), _position(route, type_name, route.body, schemas))
    elif route.variables:
        schema = schemas.object(schemas.message(type_name), without=frozenset(route.variables))
    else:
        schema = schemas.reference(type_name)
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(route: Route, schemas: Schemas) -> JsonObject:
    type_name = route.rpc.method.output_type
    if type_name == HTTP_BODY:
        return {"description": "The document itself.", "content": {"*/*": {}}}
    if route.response_body:
        at = _position(route, type_name, route.response_body, schemas)
        schema = schemas.field(schemas.message(type_name), at)
    else:
        schema = schemas.reference(type_name)
    if route.rpc.method.server_streaming:
        return {
            "description": "Server-sent events; the data of each is one message.",
            "content": {"text/event-stream": {"schema": schema}},
        }
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _error_response(schemas: Schemas) -> JsonObject:
    schemas.reference(STATUS)
    kinds = [
        {
            "allOf": [
                {
                    "type": "object",
                    "properties": {"@type": {"const": f"type.googleapis.com/google.rpc.{detail}"}},
                    "required": ["@type"],
                },
                schemas.reference(f".google.rpc.{detail}"),
            ]
        }
        for detail in DETAILS
    ]
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/google.rpc.Status"},
            {"type": "object", "properties": {"details": {"type": "array", "items": {"anyOf": kinds}}}},
        ]
    }
    return {
        "description": "What went wrong. `details` always holds an ErrorInfo with the reason, for programs to read.",
        "content": {"application/json": {"schema": schema}},
    }


def _tags(contract: Contract, paths: dict[str, JsonObject]) -> list[JsonObject]:
    used = {tag for item in paths.values() for operation in item.values() for tag in operation["tags"]}
    tags: list[JsonObject] = []
    for file in contract.own_files():
        for at, service in enumerate(file.service):
            if service.name in used:
                tags.append({"name": service.name, "description": contract.comment(file, (SERVICE, at))})
    return tags
