"""A small server that speaks the HTTP API of OpenFGA (https://openfga.dev/api/service), answering the long way.

It keeps what it is told in memory. It was driven by OpenFGA's own command line (`fga model write`, `tuple write`,
`tuple read`, `query check`), whose answers and faults it shares for what is in use here.
"""

import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from services.gateway.relations.model import Direct, Model, leaves
from services.gateway.relations.openfga_json import model_from_json
from services.gateway.relations.tuples import Node, Object, RelationTuple, User
from tests.support.relations import naive_check

STORE_ID: Final = "01JZX3N1E5T0R3000000000000"
TOKEN: Final = "a-preshared-key"
_ULID: Final = re.compile("[ABCDEFGHJKMNPQRSTVWXYZ0-9]{26}")
_OBJECT: Final = re.compile(r"[^:#@\s]{1,254}:[^#:\s*][^#:\s]*")
_MOST: Final = 100


class Refusal(Exception):
    """What the server answers instead."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(slots=True)
class OpenFgaServer:
    """The server's state, and what tests look at."""

    url: str = ""
    models: dict[str, tuple[dict[str, Any], Model]] = field(default_factory=dict[str, tuple[dict[str, Any], Model]])
    tuples: dict[tuple[str, str, str], datetime] = field(default_factory=dict[tuple[str, str, str], datetime])
    #: Paths of the requests, in order.
    asked: list[str] = field(default_factory=list[str])
    #: Answers that the next requests get instead of their own.
    refusals: list[Refusal] = field(default_factory=list[Refusal])

    async def handle(self, request: web.Request) -> web.Response:
        """Answers one request."""
        self.asked.append(f"{request.method} {request.match_info['call']}")
        try:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "bearer_token_missing", "missing bearer token")
            if request.match_info["store"] != STORE_ID:
                raise Refusal(404, "store_id_not_found", "store ID not found")
            if self.refusals:
                raise self.refusals.pop(0)
            body: dict[str, Any] = await request.json() if request.method == "POST" else {}
            return self._answer(request, body)
        except Refusal as refusal:
            return web.json_response({"code": refusal.code, "message": str(refusal)}, status=refusal.status)

    def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        match request.method, request.match_info["call"].split("/"):
            case "POST", ["authorization-models"]:
                return web.json_response(self._write_model(body), status=201)
            case "GET", ["authorization-models"]:
                size = int(request.query.get("page_size", "50"))
                latest = [written for written, _ in reversed(self.models.values())][:size]
                return web.json_response({"authorization_models": latest, "continuation_token": ""})
            case "GET", ["authorization-models", model_id]:
                return web.json_response({"authorization_model": self._model(model_id)[0]})
            case "POST", ["write"]:
                return web.json_response(self._write(body))
            case "POST", ["read"]:
                return web.json_response(self._read(body))
            case "POST", ["check"]:
                return web.json_response(self._check(body))
            case _:
                raise Refusal(404, "undefined_endpoint", "Not Found")

    def _write_model(self, body: dict[str, Any]) -> dict[str, Any]:
        model = model_from_json(body)
        if model is None or not model.types:
            raise Refusal(400, "invalid_authorization_model", "invalid authorization model")
        model_id = f"01{secrets.token_hex(12).upper()}"
        self.models[model_id] = ({"id": model_id, "conditions": {}, **body}, model)
        return {"authorization_model_id": model_id}

    def _model(self, model_id: str) -> tuple[dict[str, Any], Model]:
        if model_id and not _ULID.fullmatch(model_id):
            raise Refusal(400, "validation_error", "value does not match regex pattern")
        if not self.models:
            raise Refusal(400, "latest_authorization_model_not_found", "No authorization models found")
        found = self.models.get(model_id or list(self.models)[-1])
        if found is None:
            raise Refusal(400, "authorization_model_not_found", f"Authorization Model '{model_id}' not found")
        return found

    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        writes, deletes = body.get("writes") or {}, body.get("deletes") or {}
        adding = [_key(one) for one in writes.get("tuple_keys") or ()]
        removing = [_key(one) for one in deletes.get("tuple_keys") or ()]
        if not 1 <= len(adding) + len(removing) <= _MOST:
            raise Refusal(400, "exceeded_entity_limit", "The number of write operations exceeds the allowed limit")
        if len({*adding, *removing}) < len(adding) + len(removing):
            raise Refusal(400, "cannot_allow_duplicate_tuples_in_one_request", "duplicate tuple in request")
        model = self._model(body.get("authorization_model_id", ""))[1]
        for user, relation, thing in adding:
            _check_place(model, _tuple(user, relation, thing))
            if (user, relation, thing) in self.tuples and writes.get("on_duplicate") != "ignore":
                raise _write_failed("write a tuple which already exists", user, relation, thing)
        for user, relation, thing in removing:
            if (user, relation, thing) not in self.tuples and deletes.get("on_missing") != "ignore":
                raise _write_failed("delete a tuple which does not exist", user, relation, thing)
        for one in removing:
            self.tuples.pop(one, None)
        for one in adding:
            self.tuples.setdefault(one, datetime.now(UTC))
        return {}

    def _read(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted: dict[str, str] = body.get("tuple_key") or {}
        size = int(body.get("page_size") or 50)
        if not 1 <= size <= _MOST:
            raise Refusal(400, "page_size_invalid", "invalid ReadRequest.PageSize: value must be inside range [1, 100]")
        if wanted:
            kind, _, name = wanted.get("object", "").partition(":")
            if not kind or not (name or wanted.get("user")):
                raise Refusal(400, "validation_error", "the 'tuple_key' field was provided but the object type field")
        token = body.get("continuation_token") or "0"
        if not token.isdigit():
            raise Refusal(400, "invalid_continuation_token", "Invalid continuation token")
        found = [
            {"key": {"user": user, "relation": relation, "object": thing}, "timestamp": time.isoformat()}
            for (user, relation, thing), time in self.tuples.items()
            if wanted.get("user") in (None, "", user)
            and wanted.get("relation") in (None, "", relation)
            and _is_object(thing, wanted.get("object", ""))
        ]
        start, end = int(token), int(token) + size
        return {"tuples": found[start:end], "continuation_token": str(end) if end < len(found) else ""}

    def _check(self, body: dict[str, Any]) -> dict[str, Any]:
        user, relation, thing = _key(body["tuple_key"])
        model = self._model(body.get("authorization_model_id", ""))[1]
        asked = _tuple(user, relation, thing)
        if model.expression(asked.object.type, relation) is None:
            raise Refusal(400, "validation_error", f"relation '{asked.object.type}#{relation}' not found")
        tuples = [_tuple(*one) for one in self.tuples]
        allowed = naive_check(model, tuples, asked.user.object, Node(asked.object, relation))
        return {"allowed": allowed, "resolution": ""}


@asynccontextmanager
async def openfga_server(port: int = 0) -> AsyncGenerator[OpenFgaServer]:
    """Runs a server on the loopback."""
    server = OpenFgaServer()
    app = web.Application()
    app.router.add_route("*", "/stores/{store}/{call:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def _key(key: dict[str, Any]) -> tuple[str, str, str]:
    if not _OBJECT.fullmatch(key["object"]) or len(key["object"]) > 256:
        raise Refusal(400, "validation_error", f"invalid 'object' field format: {key['object']}")
    return key["user"], key["relation"], key["object"]


def _tuple(user: str, relation: str, thing: str) -> RelationTuple:
    rest, _, user_relation = user.partition("#")
    user_type, _, user_id = rest.partition(":")
    kind, _, name = thing.partition(":")
    return RelationTuple(User(user_type, user_id, user_relation), relation, Object(kind, name))


def _check_place(model: Model, one: RelationTuple) -> None:
    expression = model.expression(one.object.type, one.relation)
    kinds = () if expression is None else [leaf.kinds for leaf in leaves(expression) if isinstance(leaf, Direct)]
    if not any(one.user.kind in some for some in kinds):
        raise Refusal(
            400, "validation_error", f"Invalid tuple '{one}'. Reason: type is not an allowed type restriction"
        )


def _is_object(thing: str, wanted: str) -> bool:
    """An object, or with nothing behind the colon all of a type."""
    return thing.startswith(wanted) if wanted.endswith(":") else wanted in ("", thing)


def _write_failed(what: str, user: str, relation: str, thing: str) -> Refusal:
    sentence = f"cannot {what}: user: '{user}', relation: '{relation}', object: '{thing}'"
    return Refusal(400, "write_failed_due_to_invalid_input", sentence)
