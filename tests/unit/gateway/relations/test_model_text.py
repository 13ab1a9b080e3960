"""OpenFGA's model text is read as OpenFGA reads it, and a wrong one is refused with its line and column."""

import pytest

from services.gateway.domain.access_errors import ModelInvalid
from services.gateway.relations.lexer import MAX_BYTES
from services.gateway.relations.model import Direct, Exclusion, FromParent, Kind, Union
from services.gateway.relations.parse import parse_model
from services.gateway.relations.shipped import SHIPPED_MODEL

HEAD = "model\n  schema 1.1\ntype user\n"


def a_model(*definitions: str) -> str:
    """A model with one type `doc`; the definitions begin at line 6."""
    return HEAD + "type doc\n  relations\n" + "\n".join(f"    define {one}" for one in definitions)


def test_the_shipped_model_has_organizations_projects_and_workflows() -> None:
    model = parse_model(SHIPPED_MODEL)
    assert {name: list(relations) for name, relations in model.types.items()} == {
        "user": [],
        "organization": ["member", "admin"],
        "project": ["parent", "viewer", "editor", "admin"],
        "workflow": ["parent", "viewer", "runner", "editor"],
    }
    assert model.types["project"]["editor"] == Union((Direct((Kind("user"),)), FromParent("admin", "parent")))


def test_comments_blank_lines_and_windows_lines_make_no_difference() -> None:
    commented = SHIPPED_MODEL.replace("type project", "\n# Projects.\n\ntype project # see above")
    assert parse_model(f"# Example authorization model\n{commented}\n") == parse_model(SHIPPED_MODEL)
    assert parse_model(SHIPPED_MODEL.replace("\n", "\r\n")) == parse_model(SHIPPED_MODEL)
    assert parse_model(SHIPPED_MODEL.strip()) == parse_model(SHIPPED_MODEL)


def test_every_kind_of_user_operator_and_parenthesis_is_read_and_written_back() -> None:
    text = a_model(
        "parent: [doc]",
        "blocked: [user, user:*]",
        "member: [user,\n  user:*, # all of them\n  doc#member]",
        "viewer: ([user, doc#member] or viewer from parent) but not blocked",
        "editor: [user] and member and (viewer or (viewer from parent but not blocked))",
    )
    model = parse_model(text)
    assert isinstance(model.types["doc"]["viewer"], Exclusion)
    assert {name: str(expression) for name, expression in model.types["doc"].items()} == {
        "parent": "[doc]",
        "blocked": "[user, user:*]",
        "member": "[user, user:*, doc#member]",
        "viewer": "([user, doc#member] or viewer from parent) but not blocked",
        "editor": "[user] and member and (viewer or (viewer from parent but not blocked))",
    }


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "expected `model`"),
        ("model\nschema 1.0\ntype user", 2, 8, "must be 1.1"),
        ("model\n  schema 1.1", 1, 1, "has no type"),
        ("module core\ntype user", 1, 1, "modules are not supported"),
        (HEAD + "extend type user", 4, 1, "modules are not supported"),
        (HEAD + "type user", 4, 6, "defined twice"),
        (HEAD + "type this", 4, 6, "may not be called"),
        (HEAD + "type doc\n  relations\ntype x", 6, 1, "expected `define`"),
        (HEAD + "type doc\n    define viewer: [user]", 5, 5, "expected `type`"),
        (HEAD + "condition c(x: int) { x > 1 }", 4, 1, "conditions are not supported"),
        (HEAD + "type doc {", 4, 10, "has no place"),
        (a_model("viewer: [user with c]"), 6, 26, "conditions are not supported"),
        (a_model("viewer: [user:* with c]"), 6, 28, "conditions are not supported"),
        (a_model("viewer: [user]", "viewer: [user]"), 7, 12, "defined twice"),
        (a_model("viewer [user]"), 6, 19, "expected `:`"),
        (a_model("viewer:"), 6, 19, "expected a relation"),
        (a_model("viewer: []"), 6, 21, "expected a type"),
        (a_model("viewer: [user"), 6, 25, "expected `]`"),
        (a_model("viewer: [user, user]"), 6, 27, "stands twice"),
        (a_model("viewer: [group]"), 6, 21, "no type `group`"),
        (a_model("viewer: [user#member]"), 6, 21, "no relation `member`"),
        (a_model("viewer: [user] or editor"), 6, 30, "no relation `editor`"),
        (a_model("viewer: editor or [user]"), 6, 30, "stands first"),
        (a_model("viewer: [user] or"), 6, 29, "expected a relation"),
        (a_model("viewer: [user] or viewer or or"), 6, 40, "expected a relation"),
        (a_model("a: [user]", "b: [user] or a and a"), 7, 27, "parentheses"),
        (a_model("a: [user]", "b: [user] but not a but not a"), 7, 32, "parentheses"),
        (a_model("a: [user]", "b: [user] but a"), 7, 26, "`but not`"),
        (a_model("a: [user]", "b: ([user] or a"), 7, 27, "expected `)`"),
        (a_model("a: [user]", "b: [user] or a or a"), 7, 12, "names `a` twice"),
        (a_model("a: [user]", "b: " + "(" * 11 + "a" + ")" * 11), 7, 25, "more than 10 parentheses"),
        (a_model("a: [user]", "b: a from a"), 7, 15, "none of `user` has a relation `a`"),
        (a_model("a: [user]", "b: a from c"), 7, 15, "no relation `c`"),
        (a_model("p: [doc] or q", "q: [doc]", "b: q from p"), 8, 15, "plain list"),
        (a_model("p: [doc, doc#q]", "q: [doc]", "b: q from p"), 8, 15, "plain list"),
        (a_model("a: b", "b: a"), 6, 12, "circle"),
        (a_model("a: [user] or b", "b: [user] or a"), 6, 12, "circle"),
        (a_model("a: [doc#a]"), 6, 12, "nobody can ever"),
        (a_model("p: [doc]", "a: a from p"), 7, 12, "nobody can ever"),
        (a_model("a: [user] or é"), 6, 25, "has no place"),
        (a_model("a: [user] or b\x00"), 6, 26, "has no place"),
        (a_model(f"{'a' * 51}: [user]"), 6, 12, "at most 50"),
        (a_model("and: [user]"), 6, 12, "expected the name"),
        (HEAD + "#" + "x" * MAX_BYTES, 1, 1, "bytes"),
        (HEAD + "\n".join(f"type t{number}" for number in range(100)), 103, 6, "more than 100 types"),
    ],
)
def test_a_wrong_model_is_refused_with_its_place(text: str, line: int, column: int, says: str) -> None:
    with pytest.raises(ModelInvalid) as raised:
        parse_model(text)
    assert says in raised.value.message
    assert (raised.value.line, raised.value.column) == (line, column)
    assert (raised.value.field, raised.value.metadata["line"]) == ("model", str(line))
