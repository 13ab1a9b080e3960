"""Sign-ins against a provider that misbehaves: what the client takes, and what it refuses."""

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

import pytest

from comitia_sdk import errors
from comitia_sdk.login import browser, device
from comitia_sdk.login.provider import Provider, ProviderTokens, discover, refresh
from comitia_sdk.login.web import ask, check_address
from tests.support.odd_provider import OddProvider, odd_provider

Answer = dict[str, str]


@pytest.fixture
def provider() -> Iterator[OddProvider]:
    with odd_provider() as running:
        yield running


def an_id_token(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.sig"


class Browser:
    """Comes back with an answer made of the question."""

    def __init__(self, provider: OddProvider, answer: Callable[[Answer], Answer], **token: Any) -> None:
        self.provider = provider
        self.answer = answer
        self.token = token
        self.asked: Answer = {}
        self.status = 0

    def __call__(self, page: str) -> None:
        self.asked = {name: values[0] for name, values in parse_qs(urlsplit(page).query).items()}
        token = {"nonce": self.asked["nonce"], **self.token}
        said = {"id_token": an_id_token(**token), "refresh_token": "r1"}
        self.provider.answers.setdefault("/token", deque([(200, said)]))
        threading.Thread(target=self._come_back).start()

    def _come_back(self) -> None:
        query = urlencode(self.answer(self.asked))
        try:
            with urlopen(f"{self.asked['redirect_uri']}?{query}", timeout=5) as page:
                self.status = page.status
        except HTTPError as refusal:
            with refusal:
                self.status = refusal.code


def sign_in(provider: OddProvider, person: Browser, *, seconds: float = 5) -> ProviderTokens:
    return browser.sign_in(discover(provider.url), "comitia", show=person, seconds=seconds)


def good(asked: Answer) -> Answer:
    return {"state": asked["state"], "code": "c1"}


def test_the_browser_is_asked_with_pkce_and_the_answer_is_exchanged(provider: OddProvider) -> None:
    person = Browser(provider, good)
    tokens = sign_in(provider, person)
    assert tokens.refresh_token == "r1"
    [(path, form)] = provider.sent
    assert path == "/token"
    challenge = base64.urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert (person.asked["code_challenge"], person.asked["code_challenge_method"]) == (challenge, "S256")
    assert len(form["code_verifier"]) >= 43
    assert form["redirect_uri"] == person.asked["redirect_uri"]
    assert form["code"] == "c1"
    assert person.asked["redirect_uri"].startswith("http://127.0.0.1:")
    assert person.asked["response_type"] == "code"
    assert "code_verifier" not in person.asked
    assert "r1" not in repr(tokens)
    again = Browser(provider, good)
    provider.answers.pop("/token")
    sign_in(provider, again)
    for name in ("state", "nonce", "code_challenge"):
        assert again.asked[name] != person.asked[name]


@pytest.mark.parametrize(
    ("answer", "token", "said"),
    [
        (lambda asked: {"state": asked["state"], "error": "access_denied"}, {}, "says access_denied"),
        (lambda asked: {**good(asked), "iss": "https://evil.example"}, {}, "another provider"),
        (good, {"nonce": "another"}, "not for this sign-in"),
        (good, {"nonce": None}, "not for this sign-in"),
    ],
)
def test_an_answer_that_is_not_to_the_question_is_refused(
    provider: OddProvider, answer: Callable[[Answer], Answer], token: dict[str, Any], said: str
) -> None:
    with pytest.raises(errors.Unauthenticated, match=said) as refused:
        sign_in(provider, Browser(provider, answer, **token))
    assert refused.value.reason == "LOGIN_REFUSED"


@pytest.mark.parametrize("state", ["", "wrong", "ä"])
def test_an_answer_with_another_state_is_not_taken(provider: OddProvider, state: str) -> None:
    person = Browser(provider, lambda _: {"state": state, "code": "c1"})
    with pytest.raises(errors.TimedOut):
        sign_in(provider, person, seconds=0.5)
    assert provider.sent == []
    assert person.status == 404


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((400, {"error": "invalid_grant"}), "says invalid_grant"),
        ((400, {"error": "x\x1b[31m"}), "says no"),
        ((500, "<html>"), "says no"),
        ((200, {"access_token": "a"}), "no ID token"),
        ((200, "hello"), "no ID token"),
        ((302, "https://evil.example"), "says no"),
    ],
)
def test_a_provider_that_gives_no_id_token_is_told_of(
    provider: OddProvider, answer: tuple[int, Any], said: str
) -> None:
    provider.says("/token", answer)
    with pytest.raises(errors.Unauthenticated, match=said):
        sign_in(provider, Browser(provider, good))


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": ""},
        {"authorization_endpoint": 7},
        {"token_endpoint": "http://mesh.example.com/token"},
        {"authorization_endpoint": "http://mesh.example.com/auth"},
        {"device_authorization_endpoint": "http://mesh.example.com/device"},
    ],
)
def test_what_is_no_provider_is_refused(provider: OddProvider, changes: dict[str, Any]) -> None:
    place = "/.well-known/openid-configuration"
    _, described = provider.take(place)
    provider.says(place, (200, {**described, **changes}))
    with pytest.raises(errors.FailedPrecondition) as refused:
        discover(provider.url)
    assert refused.value.reason == "PROVIDER_UNUSABLE"


def test_offline_access_is_asked_for_where_there_is_some(provider: OddProvider) -> None:
    assert not discover(provider.url).stays
    place = "/.well-known/openid-configuration"
    _, described = provider.take(place)
    provider.says(place, (200, {**described, "scopes_supported": ["openid", "offline_access"]}))
    person = Browser(provider, good)
    sign_in(provider, person)
    assert (person.asked["scope"], person.asked["prompt"]) == ("openid email offline_access", "consent")


@pytest.mark.parametrize("url", ["http://mesh.example.com", "ftp://127.0.0.1", "file:///etc/passwd", "", "http://[::1"])
def test_secrets_are_sent_over_tls_or_within_this_machine(url: str) -> None:
    with pytest.raises((errors.FailedPrecondition, ValueError)):
        check_address(url)


def test_a_provider_that_is_away_is_named() -> None:
    with pytest.raises(errors.MeshUnavailable, match=r"127\.0\.0\.1:1 does") as away:
        ask("http://127.0.0.1:1/token")
    assert away.value.reason == "PROVIDER_UNREACHABLE"


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


CODE = {"device_code": "d1", "user_code": "ABCD-EFGH", "verification_uri": "https://p/device", "expires_in": 60}
PENDING = (400, {"error": "authorization_pending"})
SLOW = (400, {"error": "slow_down"})


def by_device(provider: OddProvider, time: Time, shown: list[device.DeviceCode] | None = None) -> ProviderTokens:
    show = (shown if shown is not None else []).append
    found = discover(provider.url)
    return device.sign_in(found, "comitia", show=show, sleep=time.sleep, now=lambda: time.now)


def test_a_device_asks_as_often_as_it_may_and_more_slowly_when_told(provider: OddProvider) -> None:
    provider.says("/device", (200, {**CODE, "interval": 2, "verification_uri_complete": "https://p/device?c"}))
    provider.says("/token", PENDING, SLOW, PENDING, SLOW, (200, {"id_token": an_id_token()}))
    time, shown = Time(), list[device.DeviceCode]()
    assert by_device(provider, time, shown).id_token
    assert time.slept == [2, 2, 7, 7, 12]
    [code] = shown
    assert (code.code, code.page, code.whole_page, code.seconds) == (
        "ABCD-EFGH",
        "https://p/device",
        "https://p/device?c",
        60,
    )
    assert {form["device_code"] for path, form in provider.sent if path == "/token"} == {"d1"}


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ((400, {"error": "expired_token"}), errors.TimedOut),
        (PENDING, errors.TimedOut),
        ((400, {"error": "access_denied"}), errors.Unauthenticated),
        ((500, "broken"), errors.Unauthenticated),
        ((200, {}), errors.Unauthenticated),
    ],
)
def test_a_device_gives_up(provider: OddProvider, answer: tuple[int, Any], failure: type[Exception]) -> None:
    provider.says("/device", (200, CODE))
    provider.says("/token", answer)
    time = Time()
    with pytest.raises(failure):
        by_device(provider, time)
    assert sum(time.slept) <= 60
    assert len(time.slept) <= 12


@pytest.mark.parametrize(
    "said", [{**CODE, "user_code": ""}, {**CODE, "device_code": None}, {}, {"expires_in": -1, "interval": "x"}]
)
def test_a_provider_that_gives_no_code_is_told_of(provider: OddProvider, said: dict[str, Any]) -> None:
    provider.says("/device", (200, said))
    with pytest.raises(errors.FailedPrecondition):
        by_device(provider, Time())


def test_a_provider_without_devices_is_told_of() -> None:
    alone = Provider(
        issuer="https://p",
        authorization_endpoint="https://p/a",
        token_endpoint="https://p/t",
        device_authorization_endpoint="",
        scope="openid",
    )
    with pytest.raises(errors.FailedPrecondition, match="without --device"):
        device.sign_in(alone, "comitia", show=lambda _: None)


def test_a_refresh_keeps_the_refresh_token_unless_there_is_another(provider: OddProvider) -> None:
    place = f"{provider.url}/token"
    provider.says("/token", (200, {"id_token": "new"}), (200, {"id_token": "newer", "refresh_token": "r2"}), (400, {}))
    tokens = [refresh(place, client_id="comitia", refresh_token="r1") for _ in range(2)]
    assert [one.refresh_token for one in tokens] == ["r1", "r2"]
    with pytest.raises(errors.Unauthenticated) as ended:
        refresh(place, client_id="comitia", refresh_token="r1")
    assert ended.value.reason == "LOGIN_ENDED"
