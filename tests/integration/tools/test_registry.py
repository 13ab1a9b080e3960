"""Registering, fetching and listing tools."""

from uuid import uuid4

import pytest

from comitia.tools.v1 import tool_service_pb2 as pb
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.tools.storage import tables
from tests.integration.conftest import MakeDatabase
from tests.integration.tools.conftest import StartTools, ToolsMesh, a_template, a_tool

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tool_is_stored_as_it_was_sent_with_its_defaults(mesh: ToolsMesh) -> None:
    stored = await mesh.register(cost_nano_usd=12, output_schema={"type": "string"})
    assert stored.tool_id.startswith("tool_")
    assert (stored.version, stored.rate_limit_per_minute, stored.timeout_seconds) == ("1.0.0", 60, 10)
    assert list(stored.allowed_agents) == ["*"]
    assert len(stored.digest) == 64
    assert stored.HasField("create_time")
    sent = a_tool(cost_nano_usd=12, output_schema={"type": "string"})
    assert (stored.input_schema, stored.output_schema) == (sent.input_schema, sent.output_schema)
    found = (await mesh.call("GetTool", pb.GetToolRequest(name="sums"))).tool
    assert found == stored


async def test_what_a_tool_says_of_its_making_is_ignored(mesh: ToolsMesh) -> None:
    claimed = a_tool(tool_id="tool_01jd0000000000000000000000", digest="0" * 64, forbidden=True)
    claimed.create_time.FromSeconds(0)
    claiming = (await mesh.call("RegisterTool", pb.RegisterToolRequest(tool=claimed))).tool
    plain = await mesh.register()
    assert claiming == plain
    assert claiming.tool_id != claimed.tool_id
    assert claiming.digest != claimed.digest
    assert claiming.create_time.ToSeconds() > 0
    assert not claiming.forbidden


async def test_the_same_definition_again_is_the_same_version(mesh: ToolsMesh) -> None:
    first = await mesh.register()
    assert await mesh.register() == first
    assert await mesh.register(timeout_seconds=10, version="1.0.0") == first


async def test_a_version_never_changes(mesh: ToolsMesh) -> None:
    first = await mesh.register()
    changed = pb.RegisterToolRequest(tool=a_tool(description="Something else."))
    assert await mesh.refused("RegisterTool", changed) == "exists/TOOL_VERSION_EXISTS"
    assert (await mesh.call("GetTool", pb.GetToolRequest(name="sums"))).tool == first


async def test_a_shipped_version_never_changes_either(mesh: ToolsMesh) -> None:
    taken = pb.RegisterToolRequest(tool=a_tool(name="calculator"))
    assert await mesh.refused("RegisterTool", taken) == "exists/TOOL_VERSION_EXISTS"
    shipped = (await mesh.call("GetTool", pb.GetToolRequest(name="calculator"))).tool
    again = (await mesh.call("RegisterTool", pb.RegisterToolRequest(tool=shipped))).tool
    assert again == shipped


async def test_a_tenant_may_go_beyond_a_shipped_version(mesh: ToolsMesh) -> None:
    await mesh.register(name="calculator", version="2.0.0")
    assert (await mesh.call("GetTool", pb.GetToolRequest(name="calculator"))).tool.version == "2.0.0"
    assert (await mesh.call("GetTool", pb.GetToolRequest(name="calculator@1.0.0"))).tool.version == "1.0.0"
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    assert (await other.call("GetTool", pb.GetToolRequest(name="calculator"))).tool.version == "1.0.0"


async def test_a_name_alone_means_the_highest_version(mesh: ToolsMesh) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        await mesh.register(version=version)
    assert (await mesh.call("GetTool", pb.GetToolRequest(name="sums"))).tool.version == "1.10.0"
    assert (await mesh.call("GetTool", pb.GetToolRequest(name="sums@1.9.0"))).tool.version == "1.9.0"
    assert await mesh.refused("GetTool", pb.GetToolRequest(name="sums@3.0.0")) == "not_found/TOOL_NOT_FOUND"


@pytest.mark.parametrize(
    ("tool", "refusal"),
    [
        (pb.Tool(), "invalid/INVALID_FIELD/tool.execution_mode"),
        (a_tool(name="no spaces"), "invalid/INVALID_FIELD/tool.name"),
        (a_tool(version="one"), "invalid/INVALID_FIELD/tool.version"),
        (a_tool(description=""), "invalid/INVALID_FIELD/tool.description"),
        (a_tool(input_schema={}), "invalid/SCHEMA_INVALID/tool.input_schema"),
        (a_tool(input_schema={"type": "array"}), "invalid/SCHEMA_INVALID/tool.input_schema"),
        (a_tool(output_schema={"type": "nothing"}), "invalid/SCHEMA_INVALID/tool.output_schema"),
        (
            a_tool(input_schema={"type": "object", "properties": {"a": {"$ref": "https://evil.example/s.json"}}}),
            "invalid/SCHEMA_INVALID/tool.input_schema",
        ),
        (
            a_tool(input_schema={"type": "object", "properties": {"a": {"minimum": float("nan")}}}),
            "invalid/INVALID_FIELD/tool.input_schema",
        ),
        (a_tool(builtin="rm"), "invalid/INVALID_FIELD/tool.builtin"),
        (a_tool(auth_reference="key"), "invalid/INVALID_FIELD/tool.auth_reference"),
        (a_tool(timeout_seconds=61), "invalid/INVALID_FIELD/tool.timeout_seconds"),
        (a_tool(cache_ttl_seconds=-1), "invalid/INVALID_FIELD/tool.cache_ttl_seconds"),
        (a_tool(cost_nano_usd=-1), "invalid/INVALID_FIELD/tool.cost_nano_usd"),
        (a_tool(**a_template("ftp://x.example/")), "invalid/INVALID_FIELD/tool.http_get.url_template"),
        (a_tool(**a_template("http://x.example/", hosts=())), "invalid/INVALID_FIELD/tool.http_get.allowed_hosts"),
        (
            a_tool(**a_template("http://x.example/", http_get=pb.HttpGetSettings(url_template="http://x.example/"))),
            "invalid/INVALID_FIELD/tool.http_get.allowed_hosts",
        ),
        (
            a_tool(
                builtin="http_get",
                http_get=pb.HttpGetSettings(allowed_hosts=["a.example"], max_response_bytes=262_145),
            ),
            "invalid/INVALID_FIELD/tool.http_get.max_response_bytes",
        ),
        (
            a_tool(builtin="http_get", http_get=pb.HttpGetSettings(allowed_hosts=["http://a.example"])),
            "invalid/INVALID_FIELD/tool.http_get.allowed_hosts[0]",
        ),
    ],
)
async def test_a_wrong_definition_is_refused_with_its_field(mesh: ToolsMesh, tool: pb.Tool, refusal: str) -> None:
    assert await mesh.refused("RegisterTool", pb.RegisterToolRequest(tool=tool)) == refusal


async def test_tools_are_listed_by_name_then_version_page_by_page(mesh: ToolsMesh) -> None:
    for name, version in (("Zeta", "1.0.0"), ("sums", "1.10.0"), ("sums", "1.9.0"), ("abacus", "1.0.0")):
        await mesh.register(name=name, version=version)
    expected = ["Zeta@1.0.0", "abacus@1.0.0", "calculator@1.0.0", "http_get@1.0.0", "sums@1.9.0", "sums@1.10.0"]
    for size in (1, 2, 3, 6, 50):
        assert await _listed(mesh, page_size=size) == expected
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    assert await _listed(other) == ["calculator@1.0.0", "http_get@1.0.0"]


async def test_named_tools_come_once_each_and_unknown_ones_not_at_all(mesh: ToolsMesh) -> None:
    for version in ("1.0.0", "1.1.0"):
        await mesh.register(version=version)
    names = ["sums", "sums@1.1.0", "sums@1.0.0", "calculator", "nothing", "calculator@7.0.0"]
    expected = ["calculator@1.0.0", "sums@1.0.0", "sums@1.1.0"]
    assert await _listed(mesh, names=names) == expected
    assert await _listed(mesh, names=names, page_size=1) == expected
    assert await _listed(mesh, names=["nothing"]) == []


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (pb.ListToolsRequest(page_size=-1), "invalid/INVALID_FIELD/page_size"),
        (pb.ListToolsRequest(page_token="x"), "invalid/INVALID_FIELD/page_token"),
        (pb.ListToolsRequest(page_token="WyJhIiwiYiJd"), "invalid/INVALID_FIELD/page_token"),
        (pb.ListToolsRequest(names=["a", "b c"]), "invalid/INVALID_FIELD/names[1]"),
        (pb.ListToolsRequest(names=["a"] * 65), "invalid/INVALID_FIELD/names"),
    ],
)
async def test_wrong_lists_are_refused(mesh: ToolsMesh, request_: pb.ListToolsRequest, refusal: str) -> None:
    assert await mesh.refused("ListTools", request_) == refusal


async def test_the_shipped_tool_tells_which_hosts_it_may_ask(mesh: ToolsMesh, start: StartTools) -> None:
    tool = (await mesh.call("GetTool", pb.GetToolRequest(name="http_get"))).tool
    assert list(tool.http_get.allowed_hosts) == ["127.0.0.1", "localhost"]
    async with start(http_allowed_hosts=()) as closed:
        tool = (await closed.call("GetTool", pb.GetToolRequest(name="http_get"))).tool
        assert list(tool.http_get.allowed_hosts) == []


async def test_every_table_belongs_to_tenants_and_is_as_described(make_database: MakeDatabase) -> None:
    urls = await make_database("tools")
    await migrate("services.tools", urls.migrator)
    assert await drift("services.tools", urls.migrator, tables.metadata) == []
    async with sql_engine(urls.migrator) as engine, engine.connect() as connection:
        guards = await audit_catalogue(connection)
    assert {guard.name for guard in guards} >= {"tool", "invocation", "data_key"}
    assert [fault for guard in guards for fault in guard.faults] == []
    await migrate("services.tools", urls.migrator, to="base", back=True)
    await migrate("services.tools", urls.migrator)


async def _listed(mesh: ToolsMesh, **request: object) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = await mesh.call("ListTools", pb.ListToolsRequest(page_token=token, **request))  # type: ignore[arg-type]
        found += [f"{tool.name}@{tool.version}" for tool in page.tools]
        token = page.next_page_token
        if not token:
            return found
