"""Reads the settings of a service, or says in one sentence which variables are wrong and why; never their values."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.meshkit.settings import ServiceSettings

#: Directory of settings as files, one each, named as the variables in small letters: for what must not stand in an
#: environment. A variable wins over a file.
SECRETS_DIR: Final = "COMITIA_SECRETS_DIR"

S = TypeVar("S", bound=ServiceSettings)


class WrongSettings(Exception):
    """Says which variables are missing or wrong."""


def read_settings(settings_type: type[S]) -> S:
    """Reads settings from the environment, and from `COMITIA_SECRETS_DIR` where that is given.

    Raises: WrongSettings.
    """
    # Takes the values from elsewhere, which the type of the class does not say.
    build = cast(Any, settings_type)
    try:
        settings: S = build(_secrets_dir=_secrets_dir())
    except ValidationError as error:
        raise WrongSettings("; ".join(_sentences(settings_type, error))) from error
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        variable = variable_of(settings_type, named[1]) if named else _prefix(settings_type)
        raise WrongSettings(f"{variable}: {_unread(error.__cause__)}") from error
    unreadable = [
        f"{variable_of(settings_type, name)}: {path} {problem}"
        for name, path in settings.given_files().items()
        if (problem := _problem_with(path))
    ]
    if unreadable:
        raise WrongSettings("; ".join(unreadable))
    return settings


def variable_of(settings_type: type[ServiceSettings], field: str) -> str:
    """Names the variable of a field: `database_url` is `COMITIA_COST_DATABASE_URL`. A variable stays as it is."""
    return field if field.isupper() else f"{_prefix(settings_type)}{field}".upper()


def _secrets_dir() -> Path | None:
    given = os.environ.get(SECRETS_DIR)
    if not given:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise WrongSettings(f"{SECRETS_DIR}: {folder} is no directory")
    return folder


def _sentences(settings_type: type[ServiceSettings], error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        said = (problem["msg"][:1].lower() + problem["msg"][1:]).removeprefix("value error, ")
        place = "_".join(str(part) for part in problem["loc"])
        if place:
            yield f"{variable_of(settings_type, place)}: {said}"
        else:
            # Of several settings that do not go together: the sentence names them, by their fields.
            yield re.sub(
                r"[a-z][a-z0-9_]*_[a-z0-9_]+",
                lambda word: variable_of(settings_type, word[0]) if word[0] in settings_type.model_fields else word[0],
                said,
            )


def _unread(cause: BaseException | None) -> str:
    """Says why a value was not even looked at: its file in `COMITIA_SECRETS_DIR`, or else its form."""
    if isinstance(cause, UnicodeDecodeError):
        return "its file must be UTF-8"
    if isinstance(cause, OSError):
        return f"its file cannot be read ({cause.strerror})"
    return "must be JSON"


def _problem_with(path: Path) -> str:
    if not path.exists():
        return "is not there"
    if not path.is_file():
        return "is no file"
    return "" if os.access(path, os.R_OK) else "cannot be read"


def _prefix(settings_type: type[ServiceSettings]) -> str:
    return str(settings_type.model_config.get("env_prefix", ""))
