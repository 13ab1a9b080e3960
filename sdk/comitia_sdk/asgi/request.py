"""What of a request goes on to the mesh: its path, and few headers. Everything else stays with the application."""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote, urlsplit

from google.rpc import code_pb2

from comitia_sdk.asgi.interface import Scope, own_path, values_of
from comitia_sdk.asgi.refusal import Refusal, Refused, forbidden

#: Allowed by name: whatever pretends an identity, an address or a hop is left behind without being known.
_PASSED: Final = (b"accept", b"content-type", b"last-event-id", b"traceparent", b"tracestate")
_OWN: Final = (("accept-encoding", "identity"), ("user-agent", "comitia-asgi"))
_READS: Final = frozenset({"GET"})
_METHODS: Final = _READS | {"POST", "PUT", "PATCH", "DELETE"}
#: Decoded, a segment holds nothing that somebody could read as the end of it, or as another one.
_PATH: Final = re.compile(r"/v1(?:/(?!\.{1,2}(?:/|$))[^\x00-\x1f\x7f/\\%?#;\ud800-\udfff\ufffd]+)+")
_QUERY: Final = re.compile(rb"[\x21\x22\x24-\x7e]{0,8192}")
_VALUE: Final = re.compile(rb"[\x20-\x7e]{0,4096}")
_ENCODED: Final = (b"%2e", b"%2f", b"%5c")
_NOWHERE: Final = Refusal(
    status=404,
    code=code_pb2.UNIMPLEMENTED,
    reason="NO_SUCH_METHOD",
    message="nothing answers to this method and path; see /v1/openapi.json of the mesh",
)
_CROSS_SITE: Final = forbidden(
    "CROSS_SITE", "a page of another site may not do that in your name; the application can allow its origin"
)


def place_of(scope: Scope) -> str:
    """Gives path and query at the mesh, encoded anew. Raises: Refused: no path of its API."""
    path = own_path(scope)
    raw, query = bytes(scope.get("raw_path") or b"").lower(), bytes(scope.get("query_string", b""))
    if scope["method"] not in _METHODS or not _PATH.fullmatch(path) or any(escape in raw for escape in _ENCODED):
        raise Refused(_NOWHERE)
    if not _QUERY.fullmatch(query):
        raise Refused(_NOWHERE)
    return quote(path, safe="/:@!$&'()*+,=~") + (f"?{query.decode()}" if query else "")


def headers_of(scope: Scope, credential: str) -> list[tuple[str, str]]:
    """Gives the headers for the mesh."""
    headers = [
        ("authorization", f"Bearer {credential}"),
        ("accept-encoding", "identity"),
        ("user-agent", "comitia-asgi"),
    ]
    for name in _PASSED:
        # Of one that stands twice, servers take the first, the last or both: it says nothing.
        values = list(values_of(scope, name))
        if len(values) == 1 and _VALUE.fullmatch(values[0]):
            headers.append((name.decode(), values[0].decode()))
    return headers


def check_site(scope: Scope, origins: Collection[str]) -> None:
    """Refuses changes that a page of another site sends with a person's cookies.

    Source: `net/http.CrossOriginProtection` of Go 1.25. Callers that are no browsers send neither header.

    Raises: Refused.
    """
    if scope["method"] in _READS:
        return
    said = {name: [value.decode("latin-1") for value in values_of(scope, name)] for name in (b"origin", b"host")}
    site = list(values_of(scope, b"sec-fetch-site"))
    origin = said[b"origin"]
    if len(origin) == 1 and origin[0] in origins:
        return
    if site:
        allowed = site in ([b"same-origin"], [b"none"])
    else:
        allowed = not origin or (len(origin) == 1 and [urlsplit(origin[0]).netloc] == said[b"host"])
    if not allowed:
        raise Refused(_CROSS_SITE)
