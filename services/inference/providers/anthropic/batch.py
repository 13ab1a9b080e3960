"""Anthropic's message batches: requests in one body, and a file of what came of them.

A batch carries no name of ours, and shows the names of its requests only once it has ended.

Source: the Anthropic API reference, "Message Batches"; `tests/contract/wire` checks what is sent and read against the
official SDK's types.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from services.inference.domain.answer import Whole
from services.inference.domain.deployment import Capability, DeploymentVersion
from services.inference.domain.errors import ProviderFailure
from services.inference.domain.prompt import Prompt
from services.inference.providers import failures
from services.inference.providers.anthropic.messages import MessageReader
from services.inference.providers.anthropic.wire import request_body
from services.inference.providers.batch_http import BatchHttp, answered, checked_name
from services.inference.providers.http import ProviderHttp
from services.inference.providers.instruction import CannotBeTold
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.batch_ports import BatchCall, BatchProgress, BatchResult

_VERSION: Final = "2023-06-01"
_ENDED: Final = "ended"
_NOT_ASKED: Final = {"expired": "BATCH_EXPIRED", "canceled": "BATCH_CANCELLED"}
_PAGE: Final = 100
_MOST_PAGES: Final = 20
#: The provider's clock may differ from ours.
_EARLIER: Final = timedelta(minutes=10)


class Counts(msgspec.Struct):
    """How many requests of a batch are where."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class Batch(msgspec.Struct):
    """A batch as the provider describes it."""

    id: str
    processing_status: str
    request_counts: Counts
    created_at: datetime


class Batches(msgspec.Struct):
    """A page of batches, newest first."""

    data: list[Batch] = []
    has_more: bool = False


class Result(msgspec.Struct):
    """What became of one request."""

    type: str
    message: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class Line(msgspec.Struct):
    """One line of the results."""

    custom_id: str
    result: Result


class AnthropicBatches:
    """Speaks Anthropic's batch API. A `BatchProvider`."""

    blind = True

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = BatchHttp(http, {"x-api-key": endpoint.key.reveal(), "anthropic-version": _VERSION})
        self._url = f"{endpoint.base_url}/v1/messages/batches"

    def check(self, deployment: DeploymentVersion, prompt: Prompt) -> None:
        """See `BatchProvider.check`."""
        _body(deployment, prompt)

    async def submit(self, batch_id: str, calls: Sequence[BatchCall]) -> str:
        """See `BatchProvider.submit`."""
        name = calls[0].call.deployment.name
        requests = [
            {"custom_id": one.name, "params": msgspec.Raw(_body(one.call.deployment, one.call.prompt))} for one in calls
        ]
        made = await self._http.submit(
            name,
            self._url,
            Batch,
            msgspec.json.encode({"requests": requests}),
            [one.call.clearance for one in calls],
        )
        return checked_name(name, made.id)

    async def find(self, deployment: DeploymentVersion, batch_id: str, names: frozenset[str], since: datetime) -> str:
        """See `BatchProvider.find`."""
        after = ""
        for _ in range(_MOST_PAGES):
            url = f"{self._url}?limit={_PAGE}" + (f"&after_id={after}" if after else "")
            page = await self._http.ask(deployment.name, url, Batches)
            for batch in page.data:
                if batch.created_at.astimezone(UTC) < since - _EARLIER:
                    return ""
                may_be = batch.processing_status == _ENDED and batch.request_counts.total == len(names)
                if may_be and await self._is_ours(deployment, checked_name(deployment.name, batch.id), names):
                    return batch.id
            if not page.has_more or not page.data:
                break
            after = checked_name(deployment.name, page.data[-1].id)
        return ""

    async def look(self, deployment: DeploymentVersion, provider_id: str) -> BatchProgress:
        """See `BatchProvider.look`."""
        batch = await self._batch(deployment, provider_id)
        return BatchProgress(ended=batch.processing_status == _ENDED, told=batch.request_counts.total)

    async def results(self, deployment: DeploymentVersion, provider_id: str) -> AsyncGenerator[BatchResult]:
        """See `BatchProvider.results`."""
        # Not by the address that the answer names: keys go to the address of the settings only.
        url = f"{self._url}/{provider_id}/results"
        async with aclosing(self._http.results(deployment.name, [url], Line)) as lines:
            async for line in lines:
                yield _result(deployment, line)

    async def cancel(self, deployment: DeploymentVersion, provider_id: str) -> None:
        """See `BatchProvider.cancel`."""
        if (await self._batch(deployment, provider_id)).processing_status == "in_progress":
            await self._http.ask(deployment.name, f"{self._url}/{provider_id}/cancel", Batch, method="POST")

    async def _batch(self, deployment: DeploymentVersion, provider_id: str) -> Batch:
        return await self._http.ask(deployment.name, f"{self._url}/{provider_id}", Batch)

    async def _is_ours(self, deployment: DeploymentVersion, provider_id: str, names: frozenset[str]) -> bool:
        """Looks at the first result: names of requests are holds, which no two batches share."""
        async with aclosing(self.results(deployment, provider_id)) as results:
            async for result in results:
                return result.name in names
        return False


def _body(deployment: DeploymentVersion, prompt: Prompt) -> bytes:
    schemas = deployment.capabilities is None or Capability.JSON_SCHEMA in deployment.capabilities
    try:
        return request_body(prompt, model=deployment.model, schemas=schemas, stream=False)
    except CannotBeTold as cause:
        raise failures.cannot_be_told(deployment.name, cause.field) from cause


def _result(deployment: DeploymentVersion, line: Line) -> BatchResult:
    kind, name = line.result.type, line.custom_id
    if kind in _NOT_ASKED:
        return BatchResult(name=name, not_asked=_NOT_ASKED[kind])
    if kind == "errored":
        return answered(name, failures.status_failure(deployment.name, 400, {}, bytes(line.result.error)))
    try:
        answer = MessageReader(deployment)
        text = answer.take_whole(bytes(line.result.message))
        return answered(name, Whole(text=text, finished=answer.finished()))
    except ProviderFailure as failure:
        return answered(name, failure)
