"""The batch APIs of the fake provider, in both dialects, on the meter of the calls.

A batch is done as soon as it is looked at, unless batches wait; `end` says what became of one. What it writes is
synthetic: `tests/contract/wire` checks it against the official SDKs.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

if TYPE_CHECKING:
    from tests.support.providers.fake import Behaviour, FakeProvider, Served

#: How a request to hand a batch over goes wrong: before the provider takes it, or after.
Mishap = Literal["busy", "refused", "unavailable", "taken and broken off", "taken and failed"]
_STATUSES: dict[str, int] = {"busy": 429, "refused": 400, "unavailable": 503, "taken and failed": 500}


@dataclass
class FakeBatch:
    """One batch as the provider has it."""

    id: str
    dialect: Literal["openai", "anthropic"]
    calls: "list[Served]"
    metadata: dict[str, str]
    created: datetime
    status: str = "in_progress"
    cancelled: bool = False
    #: What each prompt came to, by its name.
    results: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    #: What is written in the place of a result that there is none of; empty: nothing is.
    rest: str = ""
    #: Prompts that the results leave out.
    silent: set[str] = field(default_factory=set[str])
    #: Prompts whose line of the results is cut off.
    torn: set[str] = field(default_factory=set[str])


class FakeBatches:
    """All batches of a provider."""

    def __init__(self, provider: "FakeProvider") -> None:
        self._provider = provider
        self.all: list[FakeBatch] = []
        self.files: dict[str, bytes] = {}
        self.mishaps: deque[Mishap] = deque()
        #: True while batches stay in progress until `end`.
        self.waits = False
        #: Says when a batch was made.
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        #: Requests to hand a batch over, also those that went wrong.
        self.submissions = 0

    def end(self, *, answered: int | None = None, rest: str = "", silent: int = 0) -> None:
        """Ends the newest batch.

        Args:
            answered: how many of its prompts were answered; None: all.
            rest: what became of the others: `expired`, `cancelled`, or nothing that anybody says.
            silent: how many of the answers the results leave out.
        """
        batch = self.all[-1]
        self._answer(batch, batch.calls[:answered])
        batch.rest = rest
        batch.silent = {call.hold_id for call in batch.calls[:silent]}
        batch.status = rest or "completed"

    def refuse(self) -> None:
        """Has the newest batch found wrong as a whole, as OpenAI does after it has read the file."""
        self.all[-1].status = "failed"

    def _answer(self, batch: FakeBatch, calls: "Iterable[Served]") -> None:
        for call in calls:
            behaviour = self._provider.take(call)
            batch.results[call.hold_id] = _answered(batch.dialect, call, behaviour)
            call.confirmed = behaviour.status == 200

    def looked_at(self, batch_id: str) -> FakeBatch:
        """Gives a batch, which is done unless it is to wait."""
        batch = next((one for one in self.all if one.id == batch_id), None)
        if batch is None:
            raise web.HTTPNotFound(text=json.dumps({"error": {"message": "no", "type": "not_found_error"}}))
        if batch.status == "in_progress" and not self.waits:
            self._answer(batch, batch.calls)
            batch.status = "completed"
        return batch

    async def add(
        self, dialect: Literal["openai", "anthropic"], prompts: list[tuple[str, dict[str, Any]]], metadata: Any
    ) -> FakeBatch:
        """Takes a batch, or does what it was told to do instead."""
        from tests.support.providers.fake import Served

        self.submissions += 1
        mishap = self.mishaps.popleft() if self.mishaps else None
        if mishap is None or mishap.startswith("taken"):
            calls = [Served(dialect, body["model"], body, {}, hold_id=name) for name, body in prompts]
            for call in calls:
                await self._provider.hold_for(call)
            number = len(self.all) + 1
            prefix = "batch" if dialect == "openai" else "msgbatch"
            self.all.append(FakeBatch(f"{prefix}_{number}", dialect, calls, metadata or {}, self.now()))
        if mishap in _STATUSES:
            body = json.dumps({"error": {"message": "no", "type": "server_error"}})
            raise _Refused(_STATUSES[mishap], body)
        if mishap is not None:
            raise _BrokenOff
        return self.all[-1]


class _Refused(Exception):
    def __init__(self, status: int, body: str) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class _BrokenOff(Exception):
    """The connection breaks."""


def batch_routes(of: Callable[[], FakeBatches]) -> list[web.RouteDef]:
    """Gives the routes of both dialects; `of` gives the batches that there are now."""

    async def upload(request: web.Request) -> web.Response:
        form = await request.post()
        file: Any = form["file"]
        assert form["purpose"] == "batch"
        name = f"file-{len(of().files) + 1}"
        of().files[name] = file.file.read()
        return web.json_response(_file(name, of().files[name]))

    async def content(request: web.Request) -> web.Response:
        return web.Response(body=of().files[request.match_info["name"]])

    async def create_openai(request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        assert asked["completion_window"] == "24h"
        lines = [json.loads(line) for line in of().files[asked["input_file_id"]].splitlines()]
        prompts = [(line["custom_id"], line["body"]) for line in lines]
        return await _created(request, of(), "openai", prompts, asked.get("metadata"))

    async def create_anthropic(request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        prompts = [(one["custom_id"], one["params"]) for one in asked["requests"]]
        return await _created(request, of(), "anthropic", prompts, {})

    async def shown(request: web.Request) -> web.Response:
        batch = of().looked_at(request.match_info["name"])
        return web.json_response(_shown(of(), batch))

    async def listed(request: web.Request) -> web.Response:
        dialect = "anthropic" if "messages" in request.path else "openai"
        newest = [one for one in reversed(of().all) if one.dialect == dialect]
        for one in newest:
            of().looked_at(one.id)
        return web.json_response({"data": [_shown(of(), one) for one in newest], "has_more": False})

    async def cancel(request: web.Request) -> web.Response:
        batch = of().looked_at(request.match_info["name"])
        batch.cancelled = True
        return web.json_response(_shown(of(), batch))

    async def results(request: web.Request) -> web.Response:
        batch = of().looked_at(request.match_info["name"])
        return web.Response(body=b"\n".join(_anthropic_lines(batch)))

    return [
        web.post("/v1/files", upload),
        web.get("/v1/files/{name}/content", content),
        web.post("/v1/batches", create_openai),
        web.get("/v1/batches", listed),
        web.get("/v1/batches/{name}", shown),
        web.post("/v1/batches/{name}/cancel", cancel),
        web.post("/v1/messages/batches", create_anthropic),
        web.get("/v1/messages/batches", listed),
        web.get("/v1/messages/batches/{name}", shown),
        web.post("/v1/messages/batches/{name}/cancel", cancel),
        web.get("/v1/messages/batches/{name}/results", results),
    ]


async def _created(
    request: web.Request,
    batches: FakeBatches,
    dialect: Literal["openai", "anthropic"],
    prompts: list[tuple[str, dict[str, Any]]],
    metadata: Any,
) -> web.Response:
    try:
        batch = await batches.add(dialect, prompts, metadata)
    except _Refused as refused:
        return web.Response(status=refused.status, text=refused.body, content_type="application/json")
    except _BrokenOff:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
    return web.json_response(_shown(batches, batch))


def _answered(dialect: str, call: "Served", behaviour: "Behaviour") -> dict[str, Any]:
    from tests.support.providers.fake import anthropic_message, openai_completion

    if dialect == "openai":
        error = {"error": {"message": "no", "type": "invalid_request_error", "code": None, "param": None}}
        body = openai_completion(call, behaviour) if behaviour.status == 200 else error
        response = {"status_code": behaviour.status, "request_id": "req_synthetic", "body": body}
        return {"id": "batch_req_synthetic", "custom_id": call.hold_id, "response": response, "error": None}
    if behaviour.status == 200:
        result: dict[str, Any] = {"type": "succeeded", "message": anthropic_message(call, behaviour)}
    else:
        error = {"type": "invalid_request_error", "message": "no"}
        result = {"type": "errored", "error": {"type": "error", "error": error, "request_id": "req_synthetic"}}
    return {"custom_id": call.hold_id, "result": result}


def _shown(batches: FakeBatches, batch: FakeBatch) -> dict[str, Any]:
    return _shown_openai(batches, batch) if batch.dialect == "openai" else _shown_anthropic(batch)


def _shown_openai(batches: FakeBatches, batch: FakeBatch) -> dict[str, Any]:
    told = [one for one in batch.results.values() if one["custom_id"] not in batch.silent]
    good = [one for one in told if one["response"]["status_code"] == 200]
    bad = [one for one in told if one["response"]["status_code"] != 200]
    bad += [
        {
            "id": "batch_req_synthetic",
            "custom_id": call.hold_id,
            "response": None,
            "error": {"code": f"batch_{batch.rest}", "message": "This request could not be executed."},
        }
        for call in batch.calls
        if batch.rest and call.hold_id not in batch.results
    ]
    shown: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "input_file_id": "file-1",
        "created_at": int(batch.created.timestamp()),
        "status": "cancelling" if batch.cancelled and batch.status == "in_progress" else batch.status,
        "metadata": batch.metadata,
        "request_counts": {
            "total": len(batch.calls),
            "completed": len(batch.results),
            "failed": len(bad) if batch.rest else 0,
        },
    }
    if batch.status != "in_progress":
        for kind, lines in (("output", good), ("error", bad)):
            name = f"file-{batch.id}-{kind}"
            batches.files[name] = b"\n".join(_line(batch, line) for line in lines)
            shown[f"{kind}_file_id"] = name if lines else None
    return shown


def _shown_anthropic(batch: FakeBatch) -> dict[str, Any]:
    ended = batch.status != "in_progress"
    failed = sum(1 for one in batch.results.values() if one["result"]["type"] == "errored")
    left = len(batch.calls) - len(batch.results)
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else ("canceling" if batch.cancelled else "in_progress"),
        "request_counts": {
            "processing": 0 if ended else len(batch.calls),
            "succeeded": len(batch.results) - failed if ended else 0,
            "errored": failed if ended else 0,
            "canceled": left if ended and batch.rest == "cancelled" else 0,
            "expired": left if ended and batch.rest != "cancelled" else 0,
        },
        "created_at": batch.created.isoformat(),
        "expires_at": (batch.created + timedelta(days=1)).isoformat(),
        "ended_at": batch.created.isoformat() if ended else None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"https://api.anthropic.com/v1/messages/batches/{batch.id}/results" if ended else None,
    }


def _anthropic_lines(batch: FakeBatch) -> list[bytes]:
    kind = {"cancelled": "canceled"}.get(batch.rest, "expired")
    return [
        _line(batch, batch.results.get(call.hold_id, {"custom_id": call.hold_id, "result": {"type": kind}}))
        for call in batch.calls
        if call.hold_id not in batch.silent
    ]


def _line(batch: FakeBatch, result: dict[str, Any]) -> bytes:
    line = json.dumps(result).encode()
    return line[:-9] if result["custom_id"] in batch.torn else line


def _file(name: str, data: bytes) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": len(data),
        "created_at": 1,
        "filename": "batch.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
