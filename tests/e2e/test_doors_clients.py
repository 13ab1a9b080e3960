"""Clients of others, unmodified and in environments of their own, at the doors of a whole mesh (`tests/clients`)."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from comitia_sdk.sync import Client
from tests.support.mesh import CHECKOUT, ProviderProcess, RunningMesh
from tests.support.node import installed, node_folder

_PYTHON: Final = CHECKOUT / ".out" / "clients" / "bin" / "python"
_NODE: Final = CHECKOUT / "tests" / "clients" / "js"
_SECONDS: Final = 60
_SAID: Final = "Rivers meet, and then they argue about the sea. Nobody wins. The sea takes all of them in the end."
#: What a provider that fails says, so that nobody waits long.
_SOON: Final = [["retry-after-ms", "10"]]
#: Fewer than the failures in a row that have a model left alone: each of them has one on purpose, of the same model.
_AT_ONCE: Final = 4
#: What each client raises for a model that nobody knows, and for a wrong key. Behind a slash: in which dialect.
_CLIENTS: Final = {
    "openai_client": ("openai.NotFoundError", "openai.AuthenticationError"),
    "anthropic_client": ("anthropic.NotFoundError", "anthropic.AuthenticationError"),
    "langchain_client": ("langchain_openai.OpenAIModelNotFoundError", "langchain_openai.OpenAIAuthenticationError"),
    "agents_client": ("openai.NotFoundError", "openai.AuthenticationError"),
    "pydantic_ai_client": ("pydantic_ai.ModelNotFoundError", "pydantic_ai.ModelAuthenticationError"),
    "langchain_client/responses": (
        "langchain_openai.OpenAIModelNotFoundError",
        "langchain_openai.OpenAIAuthenticationError",
    ),
    "agents_client/responses": ("openai.NotFoundError", "openai.AuthenticationError"),
    "pydantic_ai_client/responses": ("pydantic_ai.ModelNotFoundError", "pydantic_ai.ModelAuthenticationError"),
    "openai.mjs": ("openai.NotFoundError", "openai.AuthenticationError"),
    "anthropic.mjs": ("anthropic.NotFoundError", "anthropic.AuthenticationError"),
}

Showing = subprocess.Popen[str] | pytest.skip.Exception
Shown = Mapping[str, Mapping[str, Any]]


def prepare(provider: ProviderProcess, mark: str) -> None:
    """Tells the provider what it is to answer a client."""

    def on(case: str, *more: str, **behaviour: object) -> None:
        provider.behave(match=[f"{mark}:{case}:", *more], **behaviour)

    on("chat", text="They meet.", prompt_tokens=40, completion_tokens=7)
    on("stream", text=_SAID, pause=0.005)
    on("tools", text="", tool_calls=[("call_1", "weather", '{"city":"Ulm"}')])
    on("tools", "cloudburst", text="It rains in Ulm.")
    on("schema", text='{"name": "Danube", "km": "long"}')
    on("schema", text='{"name": "Danube", "km": 2850}')
    for case, status in (("fails_once", 503), ("busy_once", 429)):
        on(case, status=status, headers=_SOON)
        on(case, text="At last.")


def begun(client: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts a client; skips the test where it is not installed."""
    if client.endswith(".mjs"):
        folder, node = installed(_NODE), node_folder()
        assert node is not None
        command = [str(node / "node"), client]
    elif _PYTHON.exists():
        module, _, dialect = client.partition("/")
        folder, command = CHECKOUT, [str(_PYTHON), "-m", f"tests.clients.{module}"]
        environment = {**environment, "COMITIA_DIALECT": dialect}
    else:
        pytest.skip("needs .out/clients, which `make clients` installs")
    environment = {"PATH": os.environ["PATH"], **environment, "COMITIA_MARK": client}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def showing(mesh: RunningMesh) -> Iterator[Callable[[str], Showing]]:
    """Has clients that are installed show what they do, the next ones beside the one that is looked at."""
    with Client(mesh.url, api_key=mesh.admin_key) as admin:
        key = admin.tenants.create("clients").admin_api_key
    showings: dict[str, Showing] = {}

    def of(client: str) -> Showing:
        place = list(_CLIENTS).index(client)
        for one in list(_CLIENTS)[place : place + _AT_ONCE]:
            if one not in showings:
                prepare(mesh.provider, one)
                try:
                    showings[one] = begun(one, {"COMITIA_URL": mesh.url, "COMITIA_API_KEY": key})
                except pytest.skip.Exception as missing:
                    showings[one] = missing
        return showings[client]

    yield of
    for one in showings.values():
        if isinstance(one, subprocess.Popen):
            one.kill()
            one.communicate()


@pytest.fixture(scope="module", params=_CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Gives the name of a client."""
    return request.param


@pytest.fixture(scope="module")
def shown(client: str, showing: Callable[[str], Showing], mesh: RunningMesh) -> Shown:
    """Gives what came of each case, and how often the provider was asked for it."""
    process = showing(client)
    if not isinstance(process, subprocess.Popen):
        raise process
    out, said = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0, said
    cases: Shown = json.loads(out)
    return {
        name: {**case, "asked": len(mesh.provider.meter(f"{client}:{name}:")["calls"])} for name, case in cases.items()
    }


def test_a_client_is_answered_and_reads_what_it_used(shown: Shown) -> None:
    assert shown["chat"] == {"text": "They meet.", "used": [40, 7], "asked": 1}


def test_a_stream_comes_in_pieces_that_make_the_answer(shown: Shown) -> None:
    pieces = [piece for piece in shown["stream"].get("pieces", ()) if piece]
    assert shown["stream"] == {"pieces": shown["stream"].get("pieces"), "text": _SAID, "asked": 1}
    assert "".join(pieces) == _SAID
    assert len(pieces) > 1


def test_a_tool_is_called_and_its_result_reaches_the_model(shown: Shown) -> None:
    assert shown["tools"] == {"called": ["weather", {"city": "Ulm"}], "text": "It rains in Ulm.", "asked": 2}


def test_an_answer_has_the_form_that_the_client_wants(shown: Shown) -> None:
    """What broke it was asked for again, and the client saw nothing of that."""
    assert shown["schema"] == {"name": "Danube", "km": 2850, "asked": 2}


def test_errors_are_those_of_the_client(client: str, shown: Shown) -> None:
    for case, error, status in zip(("no_model", "no_key"), _CLIENTS[client], (404, 401), strict=True):
        told = {name: shown[case].get(name) for name in ("error", "status", "asked")}
        assert told == {"error": error, "status": status, "asked": 0}
    assert "gpt-17" in shown["no_model"]["message"]


def test_a_client_asks_again_by_itself(shown: Shown) -> None:
    for case in ("fails_once", "busy_once"):
        told = {name: shown[case].get(name) for name in ("error", "text", "asked")}
        assert told == {"error": None, "text": "At last.", "asked": 2}, shown[case]


def test_the_lock_files_name_no_registry() -> None:
    lock = json.loads((_NODE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all("resolved" not in package and package["integrity"] for package in packages.values())
    assert "://" not in (CHECKOUT / "locks" / "clients.txt").read_text(encoding="utf-8")
