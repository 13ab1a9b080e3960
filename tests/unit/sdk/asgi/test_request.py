"""What of a request reaches the mesh, and what never does."""

from collections.abc import Iterable

import pytest

from comitia_sdk.asgi.interface import Scope
from comitia_sdk.asgi.refusal import Refused
from comitia_sdk.asgi.request import check_site, headers_of, place_of
from tests.support.asgi import http

PLACES = {
    "/v1/agents": "/v1/agents",
    "/v1/sessions/run_1:watch": "/v1/sessions/run_1:watch",
    "/v1/agents/Ada Lovelace": "/v1/agents/Ada%20Lovelace",
    "/v1/agents/Zoë": "/v1/agents/Zo%C3%AB",
    "/v1/policies/mine@1.0.0:activate": "/v1/policies/mine@1.0.0:activate",
    "/v1/agents/...": "/v1/agents/...",
}
NOWHERE = """/ /v1 /v1/ /v2/agents /agents //v1/agents /v1//agents /v1/agents/ /v1/./agents /v1/x/../agents /v1/..
    /v1/agents/.. /v1/agents/. /../v1/agents /V1/agents /v1\\agents /v1/agents\\..\\x /v1/a%2e%2e/b /v1/agents%00
    /v1/agents;v=1 /v1/agents?x /v1/agents#x http://evil.example/v1/agents v1/agents /healthz
    /comitia.gateway.v1.IdentityService/WhoAmI /v1/comitia.gateway.v1.IdentityService/../x""".split()


@pytest.mark.parametrize(("path", "place"), PLACES.items())
def test_paths_of_the_api_go_on_wherever_the_application_stands(path: str, place: str) -> None:
    assert place_of(http(path)) == place
    assert place_of(http(f"/ai{path}", root="/ai")) == place
    assert place_of(http(path, root="/ai")) == place
    assert place_of(http(path, query_string=b"page_size=2&x=%2F")) == f"{place}?page_size=2&x=%2F"


@pytest.mark.parametrize("path", [*NOWHERE, "/v1/a\0b", "/v1/a\r\nx: y", "/v1/a\udcff", "/v1/\ufffd"])
def test_other_paths_and_other_spellings_are_nowhere(path: str) -> None:
    for scope in (http(path), http(f"/ai{path}", root="/ai")):
        with pytest.raises(Refused) as refused:
            place_of(scope)
        assert refused.value.refusal.status == 404


@pytest.mark.parametrize("raw", [b"/v1%2Fagents", b"/v1/x%2f..%2Fagents", b"/v1/%2e/agents", b"/v1/a%5Cb"])
def test_what_was_an_escaped_slash_or_dot_is_no_path_for_anybody(raw: bytes) -> None:
    with pytest.raises(Refused):
        place_of(http("/v1/x/agents", raw_path=raw))
    assert place_of(http("/v1/a b", raw_path=b"/v1/a%20b")) == "/v1/a%20b"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "POST\r\nx: y"])
def test_methods_that_the_api_does_not_have_go_nowhere(method: str) -> None:
    with pytest.raises(Refused):
        place_of(http("/v1/agents", method))


@pytest.mark.parametrize("query", [b"a=b#c", b"a b", b"a\r\nb", b"\xff", b"x" * 9000])
def test_queries_that_are_none_go_nowhere(query: bytes) -> None:
    with pytest.raises(Refused):
        place_of(http("/v1/agents", query_string=query))


PRETENDING = """authorization x-api-key cookie proxy-authorization x-authorization comitia-workload x-comitia-tenant
    x-comitia-roles x-forwarded-for x-forwarded-host x-forwarded-client-cert x-real-ip forwarded via connection
    keep-alive te trailer transfer-encoding upgrade expect host content-length
    x-envoy-internal x-envoy-original-path grpc-timeout
    x-http-method-override accept-encoding range if-none-match x-request-id content-encoding""".split()


def test_headers_that_prove_pretend_or_steer_stay_with_the_application() -> None:
    sent: list[tuple[str, str]] = [
        (spelt, "evil") for name in PRETENDING for spelt in (name, name.title(), name.upper())
    ]
    sent += [("content-type", "application/json"), ("Accept", "text/event-stream"), ("traceparent", "00-x")]
    assert dict(headers_of(http(headers=sent), "good")) == {
        "authorization": "Bearer good",
        "accept-encoding": "identity",
        "user-agent": "comitia-asgi",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "traceparent": "00-x",
    }


def test_a_header_that_stands_twice_says_nothing() -> None:
    sent = [("content-type", "application/json"), ("Content-Type", "application/grpc")]
    assert "content-type" not in dict(headers_of(http(headers=sent), "good"))


@pytest.mark.parametrize("value", ["a\r\nx-api-key: ck_x", "a\nb", "a\0b", "\x7f", "\xff", "x" * 5000])
def test_a_header_that_could_become_two_says_nothing(value: str) -> None:
    assert "accept" not in dict(headers_of(http(headers=[("accept", value)]), "good"))


def post(*headers: tuple[str, str]) -> Scope:
    return http("/v1/agents", "POST", [("host", "app.example"), *headers])


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("sec-fetch-site", "same-origin"),),
        (("sec-fetch-site", "none"),),
        (("origin", "https://app.example"),),
        (("sec-fetch-site", "cross-site"), ("origin", "https://friend.example")),
    ],
)
def test_programs_and_pages_of_the_application_may_change_something(headers: Iterable[tuple[str, str]]) -> None:
    check_site(post(*headers), {"https://friend.example"})


@pytest.mark.parametrize(
    "headers",
    [
        (("sec-fetch-site", "cross-site"),),
        (("sec-fetch-site", "same-site"), ("origin", "https://other.app.example")),
        (("Sec-Fetch-Site", "same-origin"), ("sec-fetch-site", "cross-site")),
        (("origin", "https://evil.example"),),
        (("origin", "null"),),
        (("origin", "https://app.example"), ("origin", "https://evil.example")),
    ],
)
def test_pages_of_other_sites_may_not_use_a_persons_cookies(headers: Iterable[tuple[str, str]]) -> None:
    with pytest.raises(Refused) as refused:
        check_site(post(*headers), {"https://friend.example"})
    assert (refused.value.refusal.status, refused.value.refusal.reason) == (403, "CROSS_SITE")
    check_site(http("/v1/agents", headers=headers), ())
