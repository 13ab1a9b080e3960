"""Keys on Kubernetes are made once, kept, and never replaced by others."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.launcher.cluster_keys import ClusterSecrets, main, make_missing
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, prepare
from services.launcher.services import SERVICES


@dataclass
class KeptSecrets:
    """Secrets in memory."""

    kept: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])

    def read(self, name: str) -> dict[str, bytes] | None:
        return self.kept.get(name)

    def write(self, name: str, content: Mapping[str, bytes]) -> None:
        self.kept[name] = dict(content)


def fresh(folder: Path) -> DataDir:
    data = DataDir(folder)
    prepare(data)
    return data


def test_a_second_run_finds_nothing_to_make(tmp_path: Path) -> None:
    store = KeptSecrets()
    assert len(make_missing("comitia", fresh(tmp_path / "first"), store)) == len(SERVICES) + 4
    before = json.dumps(store.kept, default=str)
    assert make_missing("comitia", fresh(tmp_path / "second"), store) == []
    assert json.dumps(store.kept, default=str) == before


def test_what_is_printed_is_made_apart_from_the_mesh_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMITIA_DATA_DIR", str(tmp_path / "own"))
    make_missing("comitia", own := fresh(tmp_path / "own"), KeptSecrets())
    before = {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()}
    assert main(["comitia", "--print"]) == 0
    printed = {one["metadata"]["name"]: one["data"] for one in json.loads(capsys.readouterr().out)["items"]}
    assert len(printed) == len(SERVICES) + 4
    assert base64.b64decode(printed["comitia-cost-keys"]["kek"]) != own.kek.read_bytes()
    assert {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()} == before


def test_a_secret_that_was_lost_is_made_again_and_the_key_of_the_data_stays(tmp_path: Path) -> None:
    store = KeptSecrets()
    make_missing("comitia", fresh(tmp_path / "first"), store)
    kek = store.kept["comitia-cost-keys"]["kek"]
    del store.kept["comitia-memory-keys"]
    del store.kept["comitia-nats-keys"]
    made = make_missing("comitia", fresh(tmp_path / "second"), store)
    assert {"comitia-memory-keys", "comitia-nats-keys"} <= set(made)
    assert {store.kept[f"comitia-{service}-keys"]["kek"] for service in SERVICES} == {kek}
    keys = json.loads(store.kept["comitia-public-keys"]["workload_jwks.json"])["keys"]
    assert {key["kid"] for key in keys} == set(SERVICES)
    shown = json.loads(store.kept["comitia-memory-keys"]["workload.jwk"])["x"]
    assert shown in {key["x"] for key in keys}


def test_keys_of_data_that_differ_are_left_alone(tmp_path: Path) -> None:
    store = KeptSecrets()
    make_missing("comitia", fresh(tmp_path / "first"), store)
    store.kept["comitia-tools-keys"]["kek"] += b"0011223344556677 one that was put there by hand\n"
    before = json.dumps(store.kept, default=str)
    with pytest.raises(LauncherError, match="make them equal"):
        make_missing("comitia", fresh(tmp_path / "second"), store)
    assert json.dumps(store.kept, default=str) == before


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, Any]]]:
    """Address of what answers like the API of Kubernetes does for Secrets, and what it holds."""
    held: dict[str, Any] = {}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, found) if (found := held.get(self.path)) else self._say(404, {})

        def do_POST(self) -> None:
            made = self._body()
            made["metadata"]["resourceVersion"] = "1"
            held[f"{self.path}/{made['metadata']['name']}"] = made
            self._say(201, made)

        def do_PUT(self) -> None:
            made = self._body()
            if made["metadata"].get("resourceVersion") != held[self.path]["metadata"]["resourceVersion"]:
                self._say(409, {"message": "the object has been modified"})
                return
            made["metadata"]["resourceVersion"] += "1"
            held[self.path] = made
            self._say(200, made)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

        def _body(self) -> Any:
            assert self.headers["authorization"] == "Bearer t"
            return json.loads(self.rfile.read(int(self.headers["content-length"])))

        def _say(self, status: int, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}", held
    server.shutdown()
    serving.join()
    server.server_close()


def test_secrets_are_written_to_kubernetes_and_nobody_elses_change_is_lost(api: tuple[str, dict[str, Any]]) -> None:
    address, held = api
    secrets = ClusterSecrets(address, "mesh", token="t", tls=None)
    assert secrets.read("one") is None
    secrets.write("one", {"key": b"first"})
    again = ClusterSecrets(address, "mesh", token="t", tls=None)
    assert again.read("one") == {"key": b"first"}
    again.write("one", {"key": b"second"})
    assert ClusterSecrets(address, "mesh", token="t", tls=None).read("one") == {"key": b"second"}
    assert held.keys() == {"/api/v1/namespaces/mesh/secrets/one"}
    with pytest.raises(LauncherError, match="409"):
        again.write("one", {"key": b"third"})
