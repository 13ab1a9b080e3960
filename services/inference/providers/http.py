"""The one place where sockets to providers open."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import inf
from typing import Final

import aiohttp
from yarl import URL

from services.inference.domain.errors import ProviderFailure
from services.inference.providers import failures
from services.inference.providers.egress import Egress, EgressRule, NamedByTenants
from services.inference.providers.sse import EventTooLarge, NotAnEvent, SseEvent, SseParser
from services.meshkit.calls.ports import Clearance
from services.meshkit.core.errors import Internal
from services.meshkit.outward.addresses import AddressRefused, AddressRule, Lookup, checked_connector, system_lookup

#: Names the hold that pays for a call to whoever is asked, so that their bill can be put beside the ledger. OpenAI
#: documents the header (ASCII, at most 512 characters), Claude Code sends it to Anthropic, and other servers pass over
#: what they do not know (RFC 9110, section 5.1).
HOLD_HEADER: Final = "x-client-request-id"
#: Longest answer, whole or streamed, bytes.
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
#: What an error says beside its status is not worth a longer wait.
_ERROR_SECONDS: Final = 1.0
#: A longer body, such as one with pictures, is written piece by piece, so that other calls go on meanwhile.
_MOST_AT_ONCE: Final = 512 * 1024
_CONNECT_SECONDS: Final = 10.0
_KEEP_ALIVE_SECONDS: Final = 60.0
_DNS_SECONDS: Final = 60
#: What an installation that says nothing about egress allows.
ANYWHERE: Final = EgressRule(Egress.ANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that is handed over in a form."""

    fields: Mapping[str, str]
    name: str
    content_type: str
    data: bytes

    def form(self) -> aiohttp.FormData:
        """Gives the form."""
        form = aiohttp.FormData(dict(self.fields))
        form.add_field("file", self.data, filename=self.name, content_type=self.content_type)
        return form


class ProviderHttp:
    """Posts JSON to providers over pooled connections. Nothing is followed, retried or read from the environment.

    Each request says which hold pays for it.
    """

    def __init__(self, session: aiohttp.ClientSession, egress: EgressRule) -> None:
        self._session = session
        self._egress = egress

    async def events(
        self,
        deployment: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        clearance: Clearance,
        *,
        seconds: float,
        first_byte_seconds: float = inf,
        between_seconds: float = inf,
        most_bytes: int = MAX_BODY_BYTES,
    ) -> AsyncGenerator[SseEvent]:
        """Posts and gives the events of the answering stream. Closing the generator closes the socket.

        Args:
            seconds: longest time until the end of the stream.
            first_byte_seconds: longest time until its first byte.
            between_seconds: longest time without a byte after that.
            most_bytes: longest stream.
        Raises: ProviderFailure; at once when what comes is no event, and a stream that ends inside an event is cut off.
        """
        parser = SseParser()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        until = min(end, loop.time() + first_byte_seconds)
        with _told(deployment, url):
            async with self._answer(deployment, url, self._post(url, headers, body, clearance), until) as response:
                received = 0
                while chunk := await _next_chunk(response, until):
                    received += len(chunk)
                    if received > most_bytes:
                        raise failures.garbage(deployment)
                    for event in parser.feed(chunk):
                        yield event
                    until = min(end, loop.time() + between_seconds)
        if not parser.clean:
            raise failures.cut_off(deployment)

    async def body(
        self,
        deployment: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        clearance: Clearance,
        *,
        seconds: float,
        between_seconds: float = inf,
        most_bytes: int = MAX_BODY_BYTES,
    ) -> bytes:
        """Posts and gives the whole answer.

        Args:
            seconds: longest time until its end.
            between_seconds: longest time without a byte once it has begun.
            most_bytes: longest answer.
        Raises: ProviderFailure.
        """
        loop = asyncio.get_running_loop()
        with _told(deployment, url):
            async with (
                asyncio.timeout(seconds),
                await self._post(url, headers, body, clearance) as response,
                asyncio.timeout(_finite(between_seconds)) as silence,
            ):
                await self._raise_for_status(deployment, url, response)
                read = bytearray()
                async for chunk in response.content.iter_any():
                    silence.reschedule(None if between_seconds == inf else loop.time() + between_seconds)
                    read += chunk
                    if len(read) > most_bytes:
                        raise failures.garbage(deployment)
                return bytes(read)

    async def look(
        self, deployment: str, url: str, headers: Mapping[str, str], *, seconds: float, fine: Collection[int]
    ) -> None:
        """Gets an address and reads no more than how that went. Nobody is asked anything, so no hold pays for it.

        Args:
            fine: statuses that are no failure.
        Raises: ProviderFailure.
        """
        ours = {**headers, "user-agent": "comitia-inference"}
        with _told(deployment, url):
            async with (
                asyncio.timeout(seconds),
                self._session.get(url, headers=ours, allow_redirects=False) as response,
            ):
                if response.status not in fine:
                    await self._raise_for_status(deployment, url, response)

    async def lines(
        self,
        deployment: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        seconds: float,
        data: bytes | Upload | None = None,
        clearances: Sequence[Clearance] = (),
        most_bytes: int = MAX_BODY_BYTES,
    ) -> AsyncGenerator[bytes]:
        """Asks for what is no answer of a model, such as how far a batch is, and gives it line by line.

        Args:
            seconds: longest time until the end.
            data: what is handed over, and leaves only under the leave of all whose prompts it is about.
            clearances: theirs.
            most_bytes: longest body.
        Raises: ProviderFailure.
        """
        if data is not None and not clearances:
            raise Internal("nothing leaves without a hold")
        received, rest = 0, b""
        end = asyncio.get_running_loop().time() + seconds
        asked = {"user-agent": "comitia-inference", **headers}
        if isinstance(data, bytes):
            asked["content-type"] = "application/json"
        sent = data.form() if isinstance(data, Upload) else data
        with _told(deployment, url):
            request = self._session.request(method, url, data=sent, headers=asked, allow_redirects=False)
            async with self._answer(deployment, url, request, end) as response:
                while chunk := await _next_chunk(response, end):
                    received += len(chunk)
                    if received > most_bytes or len(rest) > MAX_BODY_BYTES:
                        raise failures.garbage(deployment)
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
            yield rest

    @asynccontextmanager
    async def _answer(
        self, deployment: str, url: str, request: Awaitable[aiohttp.ClientResponse], until: float
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Opens an answer whose head comes in time. No limit of time holds in the block.

        One that is held across a `yield` would fall on whatever whoever reads is doing, as a cancellation of nobody's.
        """
        async with asyncio.timeout_at(until):
            response = await request
        async with response:
            async with asyncio.timeout_at(until):
                await self._raise_for_status(deployment, url, response)
            yield response

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, clearance: Clearance
    ) -> aiohttp.ClientResponse:
        ours = {"content-type": "application/json", "user-agent": "comitia-inference", HOLD_HEADER: clearance.hold.id}
        data = BytesIO(body) if len(body) > _MOST_AT_ONCE else body
        return await self._session.post(url, data=data, headers={**headers, **ours}, allow_redirects=False)

    async def _raise_for_status(self, deployment: str, url: str, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        if host := self._egress.refused_redirect(url, response.headers.get("location", "")):
            raise failures.egress_refused(deployment, host)
        try:
            async with asyncio.timeout(_ERROR_SECONDS):
                body = await _read(response, _MAX_ERROR_BYTES)
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError):
            body = b""
        raise failures.status_failure(deployment, response.status, response.headers, body)


@asynccontextmanager
async def provider_http(
    *,
    connections: int,
    egress: EgressRule = ANYWHERE,
    addresses: AddressRule | None = None,
    lookup: Lookup = system_lookup,
) -> AsyncGenerator[ProviderHttp]:
    """Opens the pool of connections to providers and closes it after the block.

    Args:
        connections: most sockets at any time over all providers.
        addresses: what of that may be connected to; None: all of it, for addresses that the installation itself names.
        lookup: resolves their names.
    """
    connector = checked_connector(
        egress if addresses is None else NamedByTenants(egress, addresses),
        lookup,
        limit=connections,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        use_dns_cache=True,
        ttl_dns_cache=_DNS_SECONDS,
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=True,
    ) as session:
        yield ProviderHttp(session, egress)


@contextmanager
def _told(deployment: str, url: str) -> Generator[None]:
    """Tells what goes wrong with a connection as a failure of whoever is asked. Raises: ProviderFailure."""
    try:
        yield
    except (aiohttp.ClientConnectorError, AddressRefused) as cause:
        raise _not_connected(deployment, url, cause) from cause
    except TimeoutError as cause:
        raise failures.timed_out(deployment) from cause
    except (aiohttp.ClientError, ConnectionError) as cause:
        raise failures.cut_off(deployment) from cause
    except (EventTooLarge, NotAnEvent) as cause:
        raise failures.garbage(deployment) from cause


def _not_connected(deployment: str, url: str, cause: aiohttp.ClientConnectorError | AddressRefused) -> ProviderFailure:
    refused = isinstance(cause, AddressRefused) or isinstance(cause.os_error.__cause__, AddressRefused)
    return failures.egress_refused(deployment, URL(url).host or "") if refused else failures.unreachable(deployment)


def _finite(seconds: float) -> float | None:
    return None if seconds == inf else seconds


async def _next_chunk(response: aiohttp.ClientResponse, until: float) -> bytes:
    """Gives what came, empty at the end."""
    async with asyncio.timeout_at(until):
        return await response.content.readany()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    read = bytearray()
    async for chunk in response.content.iter_any():
        read += chunk
        if len(read) > most:
            raise ValueError(f"the body is longer than {most} bytes")
    return bytes(read)
