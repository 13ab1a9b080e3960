"""A provider that says whatever a test wants: for answers that a real one never gives."""

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@dataclass(slots=True)
class OddProvider:
    """What it says by path; the last answer stays."""

    url: str = ""
    answers: dict[str, deque[tuple[int, Any]]] = field(default_factory=dict[str, "deque[tuple[int, Any]]"])
    #: Forms that were sent, with their paths.
    sent: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])

    def says(self, path: str, *answers: tuple[int, Any]) -> None:
        """Queues answers: status and JSON, or text."""
        self.answers[path] = deque(answers)

    def take(self, path: str) -> tuple[int, Any]:
        """Gives the next answer."""
        queue = self.answers.get(path)
        if not queue:
            return 404, {}
        return queue.popleft() if len(queue) > 1 else queue[0]


@contextmanager
def odd_provider() -> Iterator[OddProvider]:
    """Runs one while the block runs."""
    provider = OddProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            provider.sent.append((self.path, {name: values[0] for name, values in form.items()}))
            self._answer()

        def _answer(self) -> None:
            status, said = provider.take(self.path)
            body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            if status in (301, 302):
                self.send_header("location", said)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    places = {"authorization_endpoint": "auth", "token_endpoint": "token", "device_authorization_endpoint": "device"}
    described = {"issuer": provider.url} | {name: f"{provider.url}/{path}" for name, path in places.items()}
    provider.says("/.well-known/openid-configuration", (200, described))
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
