"""An application behind `ComitiaAuth`, at a mesh that the test holds in its hand."""

import pytest

from comitia_sdk.asgi import ComitiaAuth
from comitia_sdk.asgi.interface import Message, Receive, Scope, Send
from tests.support.asgi import FakeDoors


class Host:
    """An application that answers everything, and keeps the scopes it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.heard: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "lifespan":
            for _ in range(2):
                self.heard.append(await receive())
                await send({"type": f"{self.heard[-1]['type']}.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def doors() -> FakeDoors:
    return FakeDoors()


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def app(host: Host, doors: FakeDoors) -> ComitiaAuth:
    return ComitiaAuth(
        host, exempt=["/healthz", "/public/*"], doors=doors, now=doors.clock.now, monotonic=doors.clock.monotonic
    )
