"""Ids as people type them: a wrong one is refused here, with the command that lists the right ones."""

from collections.abc import Callable

import typer


def id_of(prefix: str, *, listed_by: str) -> Callable[[str], str]:
    """Gives what reads an id of one kind.

    Args:
        prefix: what its ids begin with, without `_`.
        listed_by: the command that shows them.
    """

    def read(text: str) -> str:
        if not text.startswith(f"{prefix}_"):
            raise typer.BadParameter(f"{text!r} is no id of the form {prefix}_…; `{listed_by}` shows them")
        return text

    return read
