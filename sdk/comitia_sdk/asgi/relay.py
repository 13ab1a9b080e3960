"""Passes one request on to the mesh, and its answer back, piece by piece."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import aiohttp
from yarl import URL

from comitia_sdk.asgi.interface import Receive, Scope, Send
from comitia_sdk.asgi.refusal import UNAVAILABLE, Refused
from comitia_sdk.asgi.request import headers_of
from comitia_sdk.asgi.upload import ClientGone, Upload
from comitia_sdk.errors import MeshUnavailable

_CONNECT_SECONDS: Final = 5.0
#: The edge ends a stream on which nothing was said for 300 s; this is for an edge that is gone without a word.
_SILENT_SECONDS: Final = 330.0
#: Of the answer, by name: cookies, cross-origin rules and hops are the application's own.
_PASSED: Final = frozenset(
    """cache-control content-encoding content-length content-type retry-after www-authenticate x-comitia-refused
    x-ratelimit-limit x-ratelimit-remaining x-ratelimit-reset x-request-id""".split()
)


def open_session(most: int) -> aiohttp.ClientSession:
    """Opens a way to the mesh with at most so many requests at a time; one more waits 5 s for its turn."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=most),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS),
        auto_decompress=False,
        skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
    )


class Relay:
    """One request.

    Args:
        address: at the mesh, encoded.
        credential: with which the mesh is asked.
        most: bytes of the body.
    """

    def __init__(
        self, session: aiohttp.ClientSession, address: str, credential: str, scope: Scope, *, most: int
    ) -> None:
        self._session = session
        self._address = URL(address, encoded=True)
        self._headers = headers_of(scope, credential)
        self._scope = scope
        self._most = most
        #: What the mesh answered; 0 as long as it did not.
        self.status = 0

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Passes the request on until it is answered, or the caller hangs up, which ends it at the mesh too.

        Raises: Refused: it is too large, or the mesh does not answer. MeshUnavailable: it broke off in the middle of
        an answer, which must not end as if it were whole.
        """
        upload = Upload(self._scope, receive, most=self._most)
        passing = asyncio.ensure_future(self._pass_on(upload, send))
        watching = asyncio.ensure_future(upload.until_gone())
        try:
            await asyncio.wait((passing, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            watching.cancel()
            await asyncio.gather(passing, watching, return_exceptions=True)
        if not passing.cancelled():
            with suppress(ClientGone):
                passing.result()

    async def _pass_on(self, upload: Upload, send: Send) -> None:
        try:
            request = self._session.request(
                self._scope["method"],
                self._address,
                headers=self._headers,
                data=await upload.data(),
                allow_redirects=False,
            )
            async with request as answer:
                self.status = answer.status
                headers = list(_passed(answer))
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                # As it comes, and no faster than the caller takes it.
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientError, TimeoutError) as error:
            if upload.failure is not None:
                raise upload.failure from error
            if not self.status:
                raise Refused(UNAVAILABLE) from error
            raise MeshUnavailable("the mesh broke off in the middle of an answer", reason="MESH_UNREACHABLE") from error


def _passed(answer: aiohttp.ClientResponse) -> Iterator[tuple[bytes, bytes]]:
    for name, value in answer.headers.items():
        if name.lower() in _PASSED:
            yield name.lower().encode(), value.encode("utf-8", "surrogateescape")
