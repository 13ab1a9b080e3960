"""What a definition may hold, and what two equal ones have in common."""

from typing import Any

import pytest

from services.meshkit.content import Confidentiality, Integrity, Label
from services.meshkit.core.errors import Invalid
from services.meshkit.core.tenant import SecurityPolicy
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.errors import SchemaInvalid, ToolArgumentsWrong, ToolNotAllowed
from services.tools.domain.reference import Reference, parse_reference
from services.tools.domain.schema import compile_schema
from services.tools.domain.shipped import shipped_tools
from services.tools.domain.tool import HttpGetSettings, Mode
from services.tools.domain.tool_rule import ToolRule
from services.tools.domain.url_template import ArgumentUnusable, UrlTemplate
from services.tools.storage.definition_codec import decode_definition
from tests.support.tools import SCHEMA, a_template, a_tool


def test_defaults_are_part_of_the_definition() -> None:
    written = a_tool(
        version="1.0.0", rate_limit_per_minute=60, allowed_agents=("*",), timeout_seconds=10, cache_ttl_seconds=0
    )
    assert a_tool().checked().digest == written.checked().digest
    assert a_tool().checked().digest != a_tool(timeout_seconds=11).checked().digest


def test_the_order_of_hosts_agents_and_keys_makes_no_other_definition() -> None:
    one = a_template(allowed_agents=("a", "b"), allowed_hosts=("api.example.com", "b.org"))
    other = a_template(
        allowed_agents=("b", "a", "a"),
        allowed_hosts=("b.org", "API.example.com"),
        input_schema=dict(reversed(SCHEMA.items())),
    )
    assert one.checked().digest == other.checked().digest


@pytest.mark.parametrize(
    "tool",
    [
        a_tool(),
        a_tool(cost=10**12, output_schema={"type": "string"}),
        a_template(),
        a_tool(input_schema={"type": "object", "properties": {"x": {"maximum": 1e300, "minimum": -0.5}}}),
        *shipped_tools(("*.example.com",)),
    ],
)
def test_a_stored_definition_comes_back_as_it_was(tool: Any) -> None:
    checked = tool.checked()
    again = decode_definition(checked.canonical)
    assert again.digest == checked.digest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "tool.name"),
        ({"name": "a" * 64}, "tool.name"),
        ({"name": "a-b"}, "tool.name"),
        ({"name": "a\n"}, "tool.name"),
        ({"version": "1.0"}, "tool.version"),
        ({"version": "01.0.0"}, "tool.version"),
        ({"description": " "}, "tool.description"),
        ({"description": "x" * 1001}, "tool.description"),
        ({"builtin": "shell"}, "tool.builtin"),
        ({"builtin": ""}, "tool.builtin"),
        ({"http_get": HttpGetSettings()}, "tool.http_get"),
        ({"auth_reference": "key"}, "tool.auth_reference"),
        ({"rate_limit_per_minute": -1}, "tool.rate_limit_per_minute"),
        ({"cost": -1}, "tool.cost_nano_usd"),
        ({"timeout_seconds": 61}, "tool.timeout_seconds"),
        ({"timeout_seconds": -1}, "tool.timeout_seconds"),
        ({"cache_ttl_seconds": 86_401}, "tool.cache_ttl_seconds"),
        ({"allowed_agents": ("",)}, "tool.allowed_agents[0]"),
        ({"allowed_agents": tuple(f"a{n}" for n in range(65))}, "tool.allowed_agents"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        a_tool(**changes).checked()
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "1 to 2048"),
        ("ftp://api.example.com/", "http://"),
        ("/only/path", "http://"),
        ("https://u:p@api.example.com/", "user or password"),
        ("https://{city}.example.com/", "not in the host"),
        ("https://api.example.com/{town}", "no property"),
        ("https://api.example.com/{city", "{argument}"),
        ("https://api.example.com/ x", "white space"),
        ("https://api.example.com\\@evil.org/", "backslash"),
        ("https://api.example.com/\u00e4", "ASCII"),
        ("https://api.example.com:x/", "no URL"),
        ("https://api.example.com/#{city}", "fragment"),
        ("https://other.org/{city}", "allowed_hosts"),
    ],
)
def test_a_wrong_template_says_why(url: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        a_template(url).checked()


def test_values_cannot_leave_their_place_in_a_url() -> None:
    template = UrlTemplate.parse("https://api.example.com/v/{city}/now?q={q}&n={n}&gone={gone}")
    filled = template.fill({"city": "a/../b?x#y%", "q": "..&admin=1 \u00e4", "n": [1, True, None]})
    assert filled == (
        "https://api.example.com/v/a%2F..%2Fb%3Fx%23y%25/now?q=..%26admin%3D1%20%C3%A4&n=%5B1%2Ctrue%2Cnull%5D&gone="
    )


@pytest.mark.parametrize("value", [".", ".."])
def test_dots_alone_cannot_stand_in_a_path_but_in_a_query(value: str) -> None:
    with pytest.raises(ArgumentUnusable):
        UrlTemplate.parse("https://a.example/{x}/b").fill({"x": value})
    assert UrlTemplate.parse("https://a.example/?x={x}").fill({"x": value}).endswith(f"?x={value}")


@pytest.mark.parametrize(
    ("schema", "path", "said"),
    [
        ({}, "/type", "object"),
        ({"type": "string"}, "/type", "object"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "/properties/a/minimum", "number"),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, "/properties/a/type", "not valid"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "/properties/a/pattern", "regex"),
        ({"type": "object", "properties": {"a": {"pattern": "(?=a)"}}}, "/properties/a/pattern", "regex"),
        ({"type": "object", "properties": {"a": {"$ref": "http://x.org/s"}}}, "/properties/a/$ref", "stay inside"),
        ({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a/$ref", "stay inside"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/no"}}}, "/properties/a/$ref", "names nothing"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, "/properties/a/$ref", "itself"),
        ({"type": "object", "$id": "http://x.org/"}, "/$id", "not taken"),
        ({"type": "object", "$schema": "http://x.org/own"}, "/", "meta-schema"),
        ({"type": "object", "description": "x" * 40_000}, "/", "bytes"),
    ],
)
def test_a_schema_that_cannot_be_used_says_where_and_why(schema: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(SchemaInvalid, match=said) as refusal:
        a_tool(input_schema=schema).checked()
    assert refusal.value.field == "tool.input_schema"
    assert refusal.value.metadata["path"] == path


def test_a_schema_that_would_take_exponential_time_is_refused() -> None:
    defs: dict[str, object] = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(30)
    }
    defs["a30"] = {"type": "integer"}
    schema = {"type": "object", "$defs": defs, "properties": {"x": {"$ref": "#/$defs/a0"}}}
    with pytest.raises(SchemaInvalid, match="unfolds"):
        compile_schema(schema, field="f", object_only=True)
    ring = {"type": "object", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    with pytest.raises(SchemaInvalid, match="itself"):
        compile_schema(ring, field="f", object_only=True)


def test_a_reference_within_a_schema_works() -> None:
    schema = {
        "type": "object",
        "$defs": {"city": {"type": "string", "pattern": "^[A-Z]"}},
        "properties": {"from": {"$ref": "#/$defs/city"}, "to": {"$ref": "#/$defs/city"}},
    }
    compiled = compile_schema(schema, field="f", object_only=True)
    assert compiled.problem({"from": "Bern", "to": "Ulm"}) is None
    assert compiled.problem({"from": "Bern", "to": "ulm"}) == (".to", 'it does not match "^[A-Z]"')


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "arguments.city"),
        ({"city": ""}, "arguments.city"),
        ({"city": 7}, "arguments.city"),
        ({"city": "Ulm", "days": [1, "x"]}, "arguments.days[1]"),
        ({"city": "Ulm", "other": 1}, "arguments.other"),
        ({"city": "x" * 70_000}, "arguments"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], field: str) -> None:
    tool = a_template().checked()
    with pytest.raises(ToolArgumentsWrong) as refusal:
        tool.check_arguments(arguments, CompiledSchemas().of_arguments(tool))
    assert refusal.value.field == field
    assert "Ulm" not in refusal.value.message


def test_only_listed_agents_may_call() -> None:
    tool = a_tool(allowed_agents=("Athena",)).checked()
    tool.allow("Athena")
    for other in ("Zeus", ""):
        with pytest.raises(ToolNotAllowed):
            tool.allow(other)
    a_tool().checked().allow("Zeus")


def test_results_from_outside_are_untrusted_and_others_as_good_as_their_choice() -> None:
    choice = Label(
        integrity=Integrity.TRUSTED, confidentiality=Confidentiality.RESTRICTED, sources=frozenset({"agent:Athena"})
    )
    assert a_tool().label(choice) == choice
    outside = a_template().label(choice)
    assert outside.integrity is Integrity.UNTRUSTED
    assert outside.confidentiality is Confidentiality.RESTRICTED
    assert outside.sources == {"agent:Athena", "tool:weather"}
    assert a_tool(builtin="http_get").label(choice).covers(choice)


def test_tools_ship_with_fixed_ids_and_no_host_unless_told() -> None:
    calculator, http_get = shipped_tools(())
    assert (calculator.reference, http_get.reference) == ("calculator@1.0.0", "http_get@1.0.0")
    assert calculator.id == shipped_tools(("a.org",))[0].id
    assert calculator.id.startswith("tool_")
    assert http_get.http_get is not None
    assert http_get.http_get.allowed_hosts == ()
    assert http_get.mode is Mode.BUILTIN


def test_references_name_a_tool_with_or_without_version() -> None:
    assert parse_reference("calculator", field="name") == Reference("calculator")
    assert parse_reference("calculator@1.2.3", field="name") == Reference("calculator", "1.2.3")
    for wrong in ("", "@1.0.0", "a@", "a@1", "a b", "a@1.0.0@1.0.0", "a/b"):
        with pytest.raises(Invalid):
            parse_reference(wrong, field="name")


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (SecurityPolicy(), True),
        (SecurityPolicy(allowed_tools=frozenset({"sums"})), True),
        (SecurityPolicy(allowed_tools=frozenset({"other"})), False),
        (SecurityPolicy(tools_forbidden=True), False),
        (SecurityPolicy(allowed_tools=frozenset({"sums"}), tools_forbidden=True), False),
    ],
)
def test_the_rules_of_a_tenant_name_the_tools_that_may_be_called(policy: SecurityPolicy, allowed: bool) -> None:
    rule, tool = ToolRule.of(policy), a_tool(name="sums", version="2.0.0")
    assert rule.allows(tool) is allowed
    if allowed:
        rule.check(tool)
    else:
        with pytest.raises(ToolNotAllowed, match="security policy of your tenant"):
            rule.check(tool)
