"""OpenAI's batches: a file of requests, a job that names it, and files of what came of them.

Source: the OpenAI API reference, "Batch" and "Files"; `tests/contract/wire` checks what is sent and read against the
official SDK's types.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from services.inference.domain.answer import TextDelta, Whole
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderFailure
from services.inference.domain.prompt import Prompt
from services.inference.providers import failures
from services.inference.providers.batch_http import BatchHttp, answered, checked_name
from services.inference.providers.http import ProviderHttp, Upload
from services.inference.providers.instruction import CannotBeTold
from services.inference.providers.openai.chat import OPENAI, ChatReader, Endpoint
from services.inference.providers.openai.chat_wire import Manners, request_body
from services.inference.usecases.batch_ports import BatchCall, BatchProgress, BatchResult

_ENDPOINT: Final = "/v1/chat/completions"
#: Under this name the job says which of our batches it is.
_OURS: Final = "comitia_batch"
_ENDED: Final = frozenset({"completed", "expired", "cancelled", "failed"})
#: Ends at which not all requests need to have been worked on.
_STOPPED: Final = frozenset({"expired", "cancelled"})
#: What a line says in the place of an answer that was never asked for.
_NOT_ASKED: Final = {"batch_expired": "BATCH_EXPIRED", "batch_cancelled": "BATCH_CANCELLED"}
_PAGE: Final = 100
_MOST_PAGES: Final = 20
#: The provider's clock may differ from ours.
_EARLIER: Final = timedelta(minutes=10)


class File(msgspec.Struct):
    """A file that the provider keeps."""

    id: str


class Counts(msgspec.Struct):
    """How many requests of a job are where."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Job(msgspec.Struct):
    """A batch as the provider describes it."""

    id: str
    status: str
    created_at: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts | None = None
    metadata: dict[str, str] | None = None


class Jobs(msgspec.Struct):
    """A page of batches, newest first."""

    data: list[Job] = []
    has_more: bool = False


class LineResponse(msgspec.Struct):
    """What the endpoint answered to one request."""

    status_code: int
    body: msgspec.Raw = msgspec.Raw()


class LineError(msgspec.Struct):
    """Why it did not."""

    code: str | None = None


class Line(msgspec.Struct):
    """One line of an output or error file."""

    custom_id: str
    response: LineResponse | None = None
    error: LineError | None = None


class OpenAiBatches:
    """Speaks OpenAI's batch API. A `BatchProvider`."""

    blind = False

    def __init__(self, http: ProviderHttp, endpoint: Endpoint, manners: Manners = OPENAI) -> None:
        self._http = BatchHttp(http, endpoint.headers())
        self._base_url = endpoint.base_url
        self._manners = manners

    def check(self, deployment: DeploymentVersion, prompt: Prompt) -> None:
        """See `BatchProvider.check`."""
        self._body(deployment, prompt)

    async def submit(self, batch_id: str, calls: Sequence[BatchCall]) -> str:
        """See `BatchProvider.submit`."""
        name = calls[0].call.deployment.name
        # A file alone asks no model anything: one whose job was never made only takes up space.
        upload = Upload(
            fields={"purpose": "batch"},
            name=f"{batch_id}.jsonl",
            content_type="application/jsonl",
            data=self._file(calls),
        )
        clearances = [one.call.clearance for one in calls]
        file = await self._http.upload(name, f"{self._base_url}/files", File, upload, clearances)
        job = {
            "input_file_id": file.id,
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "metadata": {_OURS: batch_id},
        }
        made = await self._http.submit(name, self._jobs, Job, msgspec.json.encode(job), clearances)
        return checked_name(name, made.id)

    async def find(self, deployment: DeploymentVersion, batch_id: str, names: frozenset[str], since: datetime) -> str:
        """See `BatchProvider.find`."""
        after = ""
        for _ in range(_MOST_PAGES):
            url = f"{self._jobs}?limit={_PAGE}" + (f"&after={after}" if after else "")
            page = await self._http.ask(deployment.name, url, Jobs)
            for job in page.data:
                if (job.metadata or {}).get(_OURS) == batch_id:
                    return checked_name(deployment.name, job.id)
            if not page.has_more or not page.data:
                break
            oldest = page.data[-1]
            if datetime.fromtimestamp(oldest.created_at, UTC) < since - _EARLIER:
                break
            after = checked_name(deployment.name, oldest.id)
        return ""

    async def look(self, deployment: DeploymentVersion, provider_id: str) -> BatchProgress:
        """See `BatchProvider.look`."""
        job = await self._job(deployment, provider_id)
        counts = job.request_counts if job.status in _STOPPED else None
        told = None if counts is None else counts.completed + counts.failed
        return BatchProgress(ended=job.status in _ENDED, refused=job.status == "failed", told=told)

    async def results(self, deployment: DeploymentVersion, provider_id: str) -> AsyncGenerator[BatchResult]:
        """See `BatchProvider.results`."""
        job = await self._job(deployment, provider_id)
        files = [checked_name(deployment.name, file) for file in (job.output_file_id, job.error_file_id) if file]
        urls = [f"{self._base_url}/files/{file}/content" for file in files]
        async with aclosing(self._http.results(deployment.name, urls, Line)) as lines:
            async for line in lines:
                yield _result(deployment, line)

    async def cancel(self, deployment: DeploymentVersion, provider_id: str) -> None:
        """See `BatchProvider.cancel`."""
        if (await self._job(deployment, provider_id)).status not in (*_ENDED, "cancelling"):
            await self._http.ask(deployment.name, f"{self._jobs}/{provider_id}/cancel", Job, method="POST")

    @property
    def _jobs(self) -> str:
        return f"{self._base_url}/batches"

    async def _job(self, deployment: DeploymentVersion, provider_id: str) -> Job:
        return await self._http.ask(deployment.name, f"{self._jobs}/{provider_id}", Job)

    def _file(self, calls: Sequence[BatchCall]) -> bytes:
        return b"\n".join(
            msgspec.json.encode(
                {
                    "custom_id": one.name,
                    "method": "POST",
                    "url": _ENDPOINT,
                    "body": msgspec.Raw(self._body(one.call.deployment, one.call.prompt)),
                }
            )
            for one in calls
        )

    def _body(self, deployment: DeploymentVersion, prompt: Prompt) -> bytes:
        try:
            return request_body(prompt, model=deployment.model, manners=self._manners, stream=False)
        except CannotBeTold as cause:
            raise failures.cannot_be_told(deployment.name, cause.field) from cause


def _result(deployment: DeploymentVersion, line: Line) -> BatchResult:
    code = (line.error.code if line.error is not None else None) or ""
    if code in _NOT_ASKED:
        return BatchResult(name=line.custom_id, not_asked=_NOT_ASKED[code])
    response = line.response
    if response is None:
        return answered(line.custom_id, failures.garbage(deployment.name))
    if response.status_code != 200:
        refused = failures.status_failure(deployment.name, response.status_code, {}, bytes(response.body))
        return answered(line.custom_id, refused)
    try:
        answer = ChatReader(deployment)
        text = "".join(piece.text for piece in answer.take(bytes(response.body)) if isinstance(piece, TextDelta))
        return answered(line.custom_id, Whole(text=text, finished=answer.finished(ends_with_done=False)))
    except ProviderFailure as failure:
        return answered(line.custom_id, failure)
