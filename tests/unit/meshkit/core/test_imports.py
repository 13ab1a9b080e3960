import subprocess
import sys

import pytest

from services.meshkit.core.imports import without

_LOADED = "import {module}, sys; print(*sorted({{'rich', 'aiohttp', 'cryptography.x509'}} & set(sys.modules)))"


def test_a_module_is_missing_inside_and_back_outside() -> None:
    with without("this_module_is_nowhere"):
        assert sys.modules["this_module_is_nowhere"] is None
    assert "this_module_is_nowhere" not in sys.modules


def test_what_is_loaded_already_stays() -> None:
    with without("subprocess"):
        assert sys.modules["subprocess"] is subprocess


@pytest.mark.parametrize("service", ["cost", "memory", "orchestrator", "policy"])
def test_a_service_loads_nothing_that_it_never_uses(service: str) -> None:
    code = _LOADED.format(module=f"services.{service}.__main__")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []
