"""What the batch APIs of all providers have in common: small questions, long lists of lines, and broken submissions."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec

from services.inference.domain.answer import Whole
from services.inference.domain.errors import Charge, ProviderFailure, ProviderUnavailable
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp, Upload
from services.inference.usecases.batch_ports import BatchResult
from services.meshkit.calls.ports import Clearance

Read = TypeVar("Read")

_LOOK_SECONDS: Final = 30.0
_SUBMIT_SECONDS: Final = 120.0
_RESULTS_SECONDS: Final = 600.0
#: Longest file of results: a thousand answers, each as long as any may be.
_MOST_RESULTS: Final = 512 * 1024 * 1024
#: Statuses of a server that had no room, and took nothing; one that failed otherwise may have taken it before.
_TURNED_AWAY: Final = ("503", "529")
#: How providers name what they keep: these go into addresses.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class BatchHttp:
    """Talks to one provider about batches."""

    def __init__(self, http: ProviderHttp, headers: Mapping[str, str]) -> None:
        self._http = http
        self._headers = headers

    async def ask(self, deployment: str, url: str, reads: type[Read], *, method: str = "GET") -> Read:
        """Asks about a batch. Raises: ProviderFailure."""
        return await self._read(deployment, method, url, reads, seconds=_LOOK_SECONDS)

    async def upload(
        self, deployment: str, url: str, reads: type[Read], file: Upload, clearances: Sequence[Clearance]
    ) -> Read:
        """Puts a file there, which does nothing by itself: nothing is owed for it. Raises: ProviderFailure."""
        try:
            return await self._read(
                deployment, "POST", url, reads, seconds=_SUBMIT_SECONDS, data=file, clearances=clearances
            )
        except ProviderFailure as failure:
            failure.charge = Charge.NOTHING
            raise

    async def submit(
        self, deployment: str, url: str, reads: type[Read], data: bytes, clearances: Sequence[Clearance]
    ) -> Read:
        """Hands something over.

        Raises: ProviderFailure: nothing was taken when its charge is NOTHING; else nobody knows.
        """
        try:
            return await self._read(
                deployment, "POST", url, reads, seconds=_SUBMIT_SECONDS, data=data, clearances=clearances
            )
        except ProviderUnavailable as failure:
            if failure.metadata.get("status", _TURNED_AWAY[0]) not in _TURNED_AWAY:
                failure.charge = Charge.UNKNOWN
            raise

    async def results(self, deployment: str, urls: Sequence[str], reads: type[Read]) -> AsyncGenerator[Read]:
        """Gives the lines of files of results.

        Raises: ProviderFailure: also for a line that cannot be read, but only once all others were given: one bad
            answer keeps nobody from theirs.
        """
        unreadable: ProviderFailure | None = None
        for url in urls:
            read = self._http.lines(
                deployment, "GET", url, self._headers, seconds=_RESULTS_SECONDS, most_bytes=_MOST_RESULTS
            )
            async with aclosing(read) as lines:
                async for line in lines:
                    if not line.strip():
                        continue
                    try:
                        found = decoded(deployment, line, reads)
                    except ProviderFailure as failure:
                        unreadable = failure
                    else:
                        yield found
        if unreadable is not None:
            raise unreadable

    async def _read(
        self,
        deployment: str,
        method: str,
        url: str,
        reads: type[Read],
        *,
        seconds: float,
        data: bytes | Upload | None = None,
        clearances: Sequence[Clearance] = (),
    ) -> Read:
        read = self._http.lines(
            deployment, method, url, self._headers, seconds=seconds, data=data, clearances=clearances
        )
        async with aclosing(read) as lines:
            body = b"\n".join([line async for line in lines])
        return decoded(deployment, body, reads)


def decoded(deployment: str, data: bytes, reads: type[Read]) -> Read:
    """Reads JSON. Raises: ProviderFailure: it is something else."""
    try:
        return msgspec.json.decode(data, type=reads)
    except failures.UNREADABLE as cause:
        raise failures.garbage(deployment) from cause


def checked_name(deployment: str, name: str) -> str:
    """Gives a name that a provider gave. Raises: ProviderFailure: it is none that an address can hold."""
    if _NAME.fullmatch(name) is None:
        raise failures.garbage(deployment)
    return name


def answered(name: str, answer: Whole | ProviderFailure) -> BatchResult:
    """Gives what became of a prompt that a model was asked."""
    if isinstance(answer, ProviderFailure):
        return BatchResult(name=name, failure=answer)
    return BatchResult(name=name, answer=answer)
