"""Names of tables and roles that go into statements where no parameter can stand."""

import re
from typing import Final

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def checked(name: str) -> str:
    """Returns the name, if it is lower-case letters, digits and `_`, at most 63.

    Raises: ValueError: it is not; names come from our own code, so this is a bug of ours.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no plain lower-case SQL name of at most 63 characters")
    return name


def quoted(name: str) -> str:
    """Returns the checked name in double quotes."""
    return f'"{checked(name)}"'


def literal(text: str) -> str:
    """Returns the text as an SQL string literal (standard_conforming_strings, the default since Postgres 9.1)."""
    if "\x00" in text or "\\" in text:
        raise ValueError("no NUL and no backslash in a literal")
    return "'" + text.replace("'", "''") + "'"
