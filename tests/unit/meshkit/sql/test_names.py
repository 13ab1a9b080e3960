"""Names that go into statements, and addresses."""

import pytest

from services.meshkit.sql.engine import asyncpg_url
from services.meshkit.sql.identifiers import literal, quoted
from services.meshkit.sql.roles import Roles, roles_of


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "Tools", "a;b", "é", "a" * 64, "1a"])
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain lower-case"):
        quoted(name)


def test_roles_are_named_after_their_database() -> None:
    assert roles_of("comitia_tools") == Roles(
        app="comitia_tools_app", maintenance="comitia_tools_maintenance", migrator="comitia_tools_migrator"
    )
    with pytest.raises(ValueError, match="at most 63"):
        roles_of("a" * 60)


def test_a_literal_cannot_end_itself() -> None:
    assert literal("it's") == "'it''s'"
    with pytest.raises(ValueError, match="backslash"):
        literal("\\")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        ("postgresql+psycopg://u@/d?host=/tmp/x", "postgresql+asyncpg://u@/d?host=%2Ftmp%2Fx"),
    ],
)
def test_an_address_gets_our_driver(given: str, wanted: str) -> None:
    assert str(asyncpg_url(given)) == wanted
