import gc
import subprocess
import sys
from importlib import import_module

import pytest

from services.meshkit.core.imports import for_good, hollow, without


def test_a_module_is_missing_inside_and_back_outside() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys"), pytest.raises(ModuleNotFoundError):
        import_module("colorsys")
    assert import_module("colorsys") is sys.modules["colorsys"]


def test_what_is_loaded_already_stays() -> None:
    with without("subprocess"):
        assert import_module("subprocess") is subprocess


def test_a_hollow_module_has_every_name_inside_and_is_itself_outside() -> None:
    with hollow("this_module_is_nowhere"):
        assert import_module("this_module_is_nowhere").anything is None
    assert "this_module_is_nowhere" not in sys.modules


def test_what_is_imported_for_good_is_not_looked_through() -> None:
    with for_good():
        inside = gc.isenabled()
        import_module("colorsys")
    assert (inside, gc.isenabled()) == (False, True)


@pytest.mark.parametrize("service", ["cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools"])
def test_a_service_tells_grpc_how_to_wait_before_it_imports_it_and_imports_for_good_only_what_it_uses(
    service: str,
) -> None:
    speaks_http = service in ("gateway", "inference", "tools")
    never = {"rich", "sqlalchemy.orm", *(() if speaks_http else ("aiohttp", "cryptography.x509"))}
    code = (
        "import sys, os; os.environ.pop('GRPC_EXPERIMENTS', None); import services;"
        "print(os.environ['GRPC_EXPERIMENTS'], 'grpc' in sys.modules, sep=';');"
        "import gc; looks = []; gc.callbacks.append(lambda *_: looks.append('grpc' in sys.modules));"
        f"import services.{service}.__main__; print('grpc' in sys.modules, any(looks), gc.isenabled());"
        f"print(*sorted({never} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["-event_engine_client,-event_engine_listener;False", "True False True", ""]


def test_grpc_knows_the_switches_that_it_is_told() -> None:
    code = (
        "import services, asyncio, grpc.aio\n"
        "async def main():\n"
        "    server = grpc.aio.server(); server.add_insecure_port('127.0.0.1:0'); await server.start()\n"
        "    await server.stop(None)\n"
        "asyncio.run(main())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Unknown experiment" not in told.stderr
