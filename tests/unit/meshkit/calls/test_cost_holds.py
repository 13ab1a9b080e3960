"""Only the client of the ledger makes holds, so whatever takes one knows that the ledger knows it (INV-7).

Sockets to providers and to pages of tools open in one module each, and each way in takes the leave that names a hold.
"""

import ast
import inspect
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.inference.providers.http import ProviderHttp, provider_http
from services.meshkit.calls.cost_holds import longest_wait
from services.meshkit.calls.ports import Clearance
from services.meshkit.core.errors import Internal
from services.tools.builtins.http_reader import HttpReader

SERVICES = Path(__file__).parents[4] / "services"
#: What speaks to other machines by itself. gRPC, SQL and NATS go to neighbours, through the toolbox.
OUTWARD = {"aiohttp", "http", "httpx", "requests", "socket", "ssl", "urllib3", "websockets"}
#: What is handed the pool of connections of that one module to speak over.
OVER_OURS = {"anthropic", "httpx2", "openai"}
#: Of `urllib`, and of the event loop.
OPENERS = {"urllib.request", "create_connection", "open_connection", "open_unix_connection", "sock_connect"}
#: Opens no way out: it is the model that is asked, in a process of its own.
LOCAL_MODEL = "inference/local/"
DOORS = "inference/transport/doors/"


def trees(*services: str) -> Iterator[tuple[str, ast.Module]]:
    for service in services or ("",):
        for path in sorted((SERVICES / service).rglob("*.py")):
            yield path.relative_to(SERVICES).as_posix(), ast.parse(path.read_text())


def makers(name: str) -> list[str]:
    """Gives the modules in which something is called by this name, also as `module.name` or by another name."""
    return [path for path, tree in trees() if name in called(tree) or name in renamed(tree)]


def called(tree: ast.Module) -> set[str]:
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    plain = {function.id for function in functions if isinstance(function, ast.Name)}
    return plain | {function.attr for function in functions if isinstance(function, ast.Attribute)}


def renamed(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname not in (None, alias.name)}


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def outward(tree: ast.Module) -> set[str]:
    """Gives what a module uses to reach other machines."""
    opened = (called(tree) | imported(tree)) & OPENERS
    return opened | {name for name in imported(tree) if name.split(".")[0] in OUTWARD}


def test_only_the_client_of_the_ledger_makes_holds() -> None:
    assert makers("DispatchedHold") == ["meshkit/calls/cost_holds.py"]


def test_leave_to_open_a_socket_is_given_where_law_and_money_are_asked() -> None:
    assert makers("Clearance") == [
        "inference/usecases/attempt.py",
        "inference/usecases/embed.py",
        "inference/usecases/hold_batch.py",
        "tools/usecases/paid_run.py",
    ]


def test_sockets_to_providers_and_pages_open_in_one_module_each() -> None:
    openers = {path for path, tree in trees("inference", "tools") if outward(tree)}
    # The local model is of the mesh, and the doors are what comes in by the same library.
    assert {path for path in openers if not path.startswith((LOCAL_MODEL, DOORS))} == {
        "inference/providers/http.py",
        "tools/builtins/http_reader.py",
    }
    clients = [path for path, tree in trees("inference", "tools") if imported(tree) & OVER_OURS]
    assert clients == [
        "inference/providers/anthropic/sdk.py",
        "inference/providers/openai/sdk.py",
        "inference/providers/sdk_transport.py",
    ]


@pytest.mark.parametrize(
    ("left", "needs", "waits"),
    [
        (300, 60, 240),
        (60, 60, 30),
        (10, 60, 5),
        (30, 10, 20),
        (3600, 60, 600),
        (0, 60, 0),
        (None, 60, 0),
    ],
)
def test_a_call_waits_for_money_as_long_as_it_stays_of_use(left: float | None, needs: int, waits: int) -> None:
    assert longest_wait(left, timedelta(seconds=needs)) == timedelta(seconds=waits)


@pytest.mark.parametrize("opener", [ProviderHttp, HttpReader])
def test_each_way_out_that_takes_content_takes_leave(opener: type) -> None:
    ways = [way for name, way in inspect.getmembers(opener, inspect.isfunction) if not name.startswith("_")]
    with_leave = [way for way in ways if "clearance" in inspect.signature(way).parameters]
    for way in with_leave:
        leave = inspect.signature(way, eval_str=True).parameters["clearance"]
        assert (leave.annotation, leave.default) == (Clearance, inspect.Parameter.empty)
    # A look at what is there carries nothing, and what is handed over as a batch takes the leave of each prompt.
    assert [way.__name__ for way in ways if way not in with_leave] == (
        ["lines", "look"] if opener is ProviderHttp else []
    )


async def test_nothing_is_handed_over_without_the_leave_of_its_prompts() -> None:
    async with provider_http(connections=1) as http:
        with pytest.raises(Internal):
            await anext(http.lines("one", "POST", "http://127.0.0.1:9", {}, seconds=1, data=b"{}"))


def test_who_only_looks_has_no_room_for_anything_of_a_tenants_and_needs_no_leave() -> None:
    assert set(inspect.signature(ProviderHttp.look).parameters) == {
        "self",
        "deployment",
        "url",
        "headers",
        "seconds",
        "fine",
    }
