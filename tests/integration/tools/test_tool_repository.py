"""Tools are found by name and version in one round trip, whatever else the tenant or another one has."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.tools.domain.reference import Reference
from services.tools.storage.tool_repository import ToolRepository
from tests.integration.conftest import MakeDatabase
from tests.support.tools import a_tool

ANNA, BERT = TenantId(uuid4()), TenantId(uuid4())


@pytest.fixture
async def tools(make_database: MakeDatabase) -> AsyncIterator[ToolRepository]:
    urls = await make_database("tools")
    await migrate("services.tools", urls.migrator)
    async with sql_engine(urls.app) as engine:
        yield ToolRepository(engine, ids=SystemIds())


async def found(tools: ToolRepository, *references: Reference) -> list[str]:
    return [tool.reference for tool in await tools.find(ANNA, references)]


async def test_a_name_alone_finds_the_highest_version_and_a_version_that_one(tools: ToolRepository) -> None:
    for version in ("1.2.0", "1.10.0", "0.99.99"):
        await tools.add(ANNA, a_tool(name="count", version=version))
    await tools.add(ANNA, a_tool(name="sort", version="3.0.0"))

    assert await found(tools, Reference("count")) == ["count@1.10.0"]
    assert await found(tools, Reference("count", "1.2.0"), Reference("sort")) == ["count@1.2.0", "sort@3.0.0"]


async def test_what_is_not_there_is_not_found(tools: ToolRepository) -> None:
    await tools.add(ANNA, a_tool(name="count", version="1.2.0"))
    await tools.add(BERT, a_tool(name="count", version="2.0.0"))

    assert await found(tools, Reference("count")) == ["count@1.2.0"]
    assert await found(tools, Reference("count", "1.3.0"), Reference("count", "2.0.0"), Reference("sort")) == []
    assert await found(tools) == []
