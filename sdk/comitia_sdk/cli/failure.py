"""Failures as one sentence on standard error, and the exit code that belongs to them."""

from typing import Final

import typer

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_STUB: Final = 4


class CommandFailed(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""

    def __init__(self, sentence: str, *, code: int = EXIT_REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def report_failure(failure: Exception) -> int:
    """Says what failed on standard error. Returns the exit code."""
    from comitia_sdk.errors import ComitiaError, MeshUnavailable

    code = EXIT_REFUSED
    sentence = str(failure)
    if isinstance(failure, CommandFailed):
        code = failure.code
    elif isinstance(failure, MeshUnavailable) and failure.reason == "UNAVAILABLE":
        code = EXIT_UNREACHABLE
        sentence = "the mesh does not answer; start it with `comitia up --detach`, or set COMITIA_URL"
    elif isinstance(failure, ComitiaError):
        sentence = f"{failure.message} [{failure.reason}]" if failure.reason else failure.message
    elif type(failure).__name__ == "LauncherError":
        sentence = str(failure)
    else:
        sentence = f"unexpected {type(failure).__name__}: {failure}; run again with `comitia --debug …` for the details"
    typer.secho(f"comitia: {sentence}", fg=typer.colors.RED, err=True)
    return code
