"""Small bounded requests to a provider, with what Python brings: an SDK that only talks gRPC needs no HTTP client."""

import json
from ipaddress import ip_address
from typing import Any, Final, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import BaseHandler, HTTPRedirectHandler, ProxyHandler, Request, build_opener

from comitia_sdk.errors import FailedPrecondition, MeshUnavailable

_TIMEOUT_SECONDS: Final = 10.0
_MAX_BYTES: Final = 1024 * 1024


class _NoRedirect(HTTPRedirectHandler):
    """A provider answers where it says it is."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Follows nothing: the redirect becomes an answer like any other."""
        return


def ask(url: str, form: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Asks a provider, by POST when there is a form. Blocks.

    Returns: the HTTP status and the JSON object, which is empty when the answer is none.
    Raises: FailedPrecondition: not `https://`, or `http://` elsewhere than on this machine. MeshUnavailable.
    """
    check_address(url)
    data = None if form is None else urlencode(form).encode()
    request = Request(url, data=data, headers={"accept": "application/json", "user-agent": "comitia"})  # noqa: S310
    handlers: list[BaseHandler] = [_NoRedirect()]
    if _is_here(url):
        handlers.append(ProxyHandler({}))  # a proxy of the company is no way to this machine
    try:
        with build_opener(*handlers).open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.status, _object(answer.read(_MAX_BYTES + 1))
    except HTTPError as refusal:
        with refusal:
            return refusal.code, _object(refusal.read(_MAX_BYTES + 1))
    except (URLError, TimeoutError, OSError, ValueError) as error:
        host = urlsplit(url).netloc
        raise MeshUnavailable(
            f"the provider at {host} does not answer", reason="PROVIDER_UNREACHABLE", metadata={"provider": host}
        ) from error


def check_address(url: str) -> None:
    """Refuses addresses over which secrets could be read. Raises: FailedPrecondition."""
    if urlsplit(url).scheme != "https" and not _is_here(url):
        raise FailedPrecondition(
            f"the provider's address {url!r} is not https, and is not on this machine", reason="PROVIDER_UNUSABLE"
        )


def _is_here(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def _object(body: bytes) -> dict[str, Any]:
    try:
        value: object = json.loads(body) if len(body) <= _MAX_BYTES else None
    except ValueError:
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
