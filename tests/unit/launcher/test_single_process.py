from pathlib import Path

import pytest

from services.launcher import single_process
from services.launcher.errors import LauncherError
from services.launcher.single_process import ServicesTogether
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds


@pytest.fixture
def together(tmp_path: Path) -> ServicesTogether:
    return ServicesTogether(clock=SystemClock(), ids=SystemIds(), report=lambda *_: None, log=tmp_path / "services.log")


async def test_a_service_that_cannot_be_imported_is_named(
    together: ServicesTogether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_process, "SERVICES", ("astrology",))

    with pytest.raises(LauncherError, match=r"astrology cannot be imported .*; run `make setup` in a checkout"):
        await together.preload()


async def test_a_setting_that_is_wrong_is_named_by_its_variable(
    together: ServicesTogether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_process, "SERVICES", ("cost",))
    monkeypatch.setenv("COMITIA_COST_LISTEN", "nowhere")

    with pytest.raises(LauncherError, match="cost cannot start: COMITIA_COST_LISTEN: "):
        await together.start()
    await together.stop()
