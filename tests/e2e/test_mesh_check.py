"""What `helm test` runs passes on a mesh that is well, and is told what is not."""

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher import mesh_check
from services.launcher.errors import LauncherError

pytestmark = pytest.mark.e2e


async def test_a_mesh_that_is_well_passes_both_checks_again_and_again(client: AsyncClient) -> None:
    assert await mesh_check.health(client) == "all seven services are well"
    for _ in range(2):
        assert "succeeded" in await mesh_check.debate(client)


async def test_a_service_that_is_not_well_is_named(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_check, "SERVICES", (*mesh_check.SERVICES, "nobody"))
    with pytest.raises(LauncherError, match="not well: nobody"):
        await mesh_check.health(client)
