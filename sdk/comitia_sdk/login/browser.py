"""Sign-in in the browser of this machine: authorization code with PKCE, answered to a port of this machine.

Source: RFC 6749, RFC 7636 (PKCE), RFC 8252 (native apps), RFC 9207 (issuer in the answer).
"""

import base64
import html
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from comitia_sdk.errors import TimedOut, Unauthenticated
from comitia_sdk.login.provider import Provider, ProviderTokens, claims_of, error_of, tokens_of
from comitia_sdk.login.web import ask

#: How long a person may take, seconds.
WAIT_SECONDS: Final = 300.0
_PATH: Final = "/callback"
_DONE: Final = "You are signed in. You may close this window and go back to the terminal."
_FAILED: Final = "The sign-in failed. The terminal says why."


def sign_in(
    provider: Provider, client_id: str, *, show: Callable[[str], None], seconds: float = WAIT_SECONDS
) -> ProviderTokens:
    """Lets a person sign in. Blocks until they have, at most for `seconds`.

    Args:
        show: is given the address of the page to sign in at.
    Raises: Unauthenticated: the provider or the person refused, or the answer is not to our question. TimedOut.
    """
    verifier, state, nonce = (secrets.token_urlsafe(48) for _ in range(3))
    with _Receiver() as receiver:
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": receiver.url,
            "scope": provider.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        if provider.stays:
            # Without it a provider must not give what works while the person is away (OpenID Connect Core, 11).
            query["prompt"] = "consent"
        joint = "&" if urlsplit(provider.authorization_endpoint).query else "?"
        show(f"{provider.authorization_endpoint}{joint}{urlencode(query)}")
        answer = receiver.wait(seconds, state=state)
        if answer.get("iss", provider.issuer) != provider.issuer:
            raise Unauthenticated("the answer came from another provider", reason="LOGIN_REFUSED")
        if "code" not in answer:
            raise Unauthenticated(f"the provider says {error_of(dict(answer))}", reason="LOGIN_REFUSED")
        form = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": answer["code"],
            "redirect_uri": receiver.url,
            "code_verifier": verifier,
        }
    status, said = ask(provider.token_endpoint, form)
    if status != 200:
        raise Unauthenticated(f"the provider says {error_of(said)}", reason="LOGIN_REFUSED")
    tokens = tokens_of(said)
    if not compare_digest(str(claims_of(tokens.id_token).get("nonce", "")).encode(), nonce.encode()):
        raise Unauthenticated("the ID token is not for this sign-in", reason="LOGIN_REFUSED")
    return tokens


class _Receiver:
    """A port of this machine to which the browser is sent back."""

    def __init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                fitting = receiver.take(self.path)
                said = html.escape(_DONE if fitting and "code" in receiver.answer else _FAILED)
                body = f"<!doctype html><meta charset=utf-8><title>Comitia</title><p>{said}</p>".encode()
                self.send_response(200 if fitting else 404)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                # The address of this page holds the code.
                self.send_header("referrer-policy", "no-referrer")
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: what it would say holds the code."""

        self.answer: dict[str, str] = {}
        self._state = ""
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def __enter__(self) -> "_Receiver":
        return self

    def __exit__(self, *_failure: object) -> None:
        self._server.server_close()

    def wait(self, seconds: float, *, state: str) -> dict[str, str]:
        """Gives the answer to the question with this state; any other request is answered 404. Raises: TimedOut."""
        self._state = state
        until = time.monotonic() + seconds
        while not self.answer:
            self._server.timeout = until - time.monotonic()
            if self._server.timeout <= 0:
                raise TimedOut("nobody signed in in time", reason="LOGIN_TIMED_OUT")
            self._server.handle_request()
        return self.answer

    def take(self, path: str) -> bool:
        """Takes an answer if it is one to our question."""
        parts = urlsplit(path)
        said = {name: values[0] for name, values in parse_qs(parts.query).items() if len(values) == 1}
        if parts.path != _PATH or not compare_digest(said.get("state", "").encode(), self._state.encode()):
            return False
        self.answer = said
        return True
