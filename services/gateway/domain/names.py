"""Names that callers give to keys and accounts, and the project these are bound to."""

from typing import Final

from services.meshkit.core.errors import Invalid, NotFound
from services.meshkit.core.identity import Principal

MAX_NAME: Final = 100
MAX_PROJECT: Final = 100


def checked_name(name: str, *, field: str = "display_name") -> str:
    """Returns the name. Raises: Invalid."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise Invalid(field, f"must be 1 to {MAX_NAME} printable characters")
    return name


def project_within(project: str | None, by: Principal) -> str | None:
    """Gives the project of what `by` makes: what a bound identity makes is bound to the same project.

    Raises: Invalid: it is no name of a project, or another than that of `by`.
    """
    if project is not None and not (1 <= len(project) <= MAX_PROJECT and project.isprintable()):
        raise Invalid("project", f"must be 1 to {MAX_PROJECT} printable characters")
    if by.project is None or project == by.project:
        return project
    if project is None:
        return by.project
    raise Invalid("project", f"must be {by.project!r}, the project that your own identity is bound to")


def check_within(project: str | None, by: Principal, *, noun: str, subject: str) -> None:
    """Raises NotFound for what is not of the project that `by` is bound to: it is not there for them."""
    if by.project not in (None, project):
        raise NotFound(noun, subject)
