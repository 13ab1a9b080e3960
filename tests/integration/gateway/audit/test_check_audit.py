"""A look through the audit trail says what was compared with signed heads, and what the head store has lost."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from pydantic import SecretStr

from services.gateway.settings import GatewaySettings
from services.gateway.wiring.checking import check_audit
from services.meshkit.sql.roles import DatabaseUrls
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.audit.conftest import Room, administrator, open_room, until


async def looked_through(room: Room) -> tuple[str, Sequence[str]]:
    settings = SimpleNamespace(
        database_url=SecretStr(room.gateway.urls.app),
        maintenance_database_url=SecretStr(room.gateway.urls.maintenance),
        audit_store=str(room.folder / "audit"),
        audit_key_path=room.folder / "audit.jwk",
        audit_jwks_path=None,
    )
    [checked] = await check_audit(cast(GatewaySettings, settings))
    return checked.what, checked.faults


async def test_heads_that_the_store_has_lost_are_told_and_put_back_and_hide_no_change(
    make_migrated: MakeDatabase, postgres: str, tmp_path: Path
) -> None:
    async def same(_service: str) -> DatabaseUrls:
        return first.gateway.urls

    async with open_room(make_migrated, tmp_path) as first:
        for _ in range(8):
            first.feeds["cost"].write(first.tenant, stream=0)
        await first.until_signed(8)
    assert await looked_through(first) == ("8 audit entries of 1 tenants, the signed heads of 1", [])

    heads = tmp_path / "audit" / "heads"
    shutil.rmtree(heads)
    what, [fault] = await looked_through(first)
    assert what == "8 audit entries of 1 tenants, the signed heads of 0, and of 1 with a copy alone"
    assert "the head store lacks its head over 8 entries" in fault
    assert not heads.exists(), "a look changes nothing"

    async def put_back() -> bool:
        return heads.exists()

    async with open_room(same, tmp_path, feeds=first.feeds):
        await until(put_back)
    assert await looked_through(first) == ("8 audit entries of 1 tenants, the signed heads of 1", [])

    shutil.rmtree(heads)
    async with administrator(postgres, first.gateway.urls) as connection:
        await connection.execute(
            "UPDATE audit_tree SET size = 5, signed_size = 5; DELETE FROM audit_chain WHERE index >= 5"
        )
    _, faults = await looked_through(first)
    assert any("it has 5 entries, and a head over 8 was signed" in fault for fault in faults)
