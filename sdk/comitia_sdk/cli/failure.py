"""Failures as one sentence on standard error, and the exit code that belongs to them."""

from typing import Any, Final

import typer

from comitia_sdk.cli.output import plain

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_STUB: Final = 4

#: What typer raises for a command line that it cannot read; it has a name for its subclass only.
_WRONG_USAGE: Final[type[Exception]] = typer.BadParameter.__mro__[1]

#: How Python and protobuf begin to say that a number fits into no field.
_NO_SUCH_NUMBER: Final = ("Value out of range", "cannot convert float")
_SHOWN: Final = 60

#: What to look at here, by the reason of a refusal.
_LOOK_AT: Final = {
    "BUDGET_EXHAUSTED": "`comitia budget show` says where it stands",
    "MODEL_NOT_FOUND": "`comitia model list` and `comitia model routes` name those that exist",
    "MODEL_NOT_READY": "`comitia model show` says more",
    "PATIENT_WORK_UNSUPPORTED": "models of OpenAI and of Anthropic do them; without `--model` the first one is asked",
    "PRICE_UNKNOWN": "`comitia prices list`, `import` and `unknown` do so from here",
    "PROVIDER_UNAVAILABLE": "`comitia model health` says how each model is found",
}


class CommandFailed(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""

    def __init__(self, sentence: str, *, code: int = EXIT_REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def report_failure(failure: Exception) -> int:
    """Says what failed on standard error. Returns the exit code."""
    if isinstance(failure, _WRONG_USAGE):
        return _report_usage(failure)
    sentence, code = _sentence(failure)
    # It may hold what others wrote.
    typer.secho(f"comitia: {plain(sentence)}", fg=typer.colors.RED, err=True)
    return code


def _sentence(failure: Exception) -> tuple[str, int]:
    if isinstance(failure, CommandFailed):
        return str(failure), failure.code
    if type(failure).__name__ == "LauncherError":  # cannot be imported where there is no checkout
        return str(failure), EXIT_REFUSED

    from comitia_sdk.errors import ComitiaError, InvalidRequest, MeshUnavailable, TimedOut

    if isinstance(failure, MeshUnavailable) and failure.reason == "MESH_UNREACHABLE":
        return f"{failure.message}; start one with `comitia up --detach`, or set COMITIA_URL", EXIT_UNREACHABLE
    if isinstance(failure, ComitiaError):
        code = EXIT_REFUSED
        if isinstance(failure, InvalidRequest):
            code = EXIT_USAGE
        elif isinstance(failure, MeshUnavailable | TimedOut):
            code = EXIT_UNREACHABLE
        advice = _LOOK_AT.get(failure.reason)
        sentence = f"{failure.message}; {advice}" if advice else failure.message
        return f"{sentence} [{failure.reason}]" if failure.reason else sentence, code
    said = str(failure)
    if isinstance(failure, ValueError | OverflowError) and said.startswith(_NO_SUCH_NUMBER):
        return f"a number is too large, or is none, for what it stands for ({said[:_SHOWN]})", EXIT_USAGE
    what = f"unexpected {type(failure).__name__}: {failure}"
    return f"{what}; run it again as `comitia --debug …` for the details", EXIT_REFUSED


def _report_usage(failure: Exception) -> int:
    """Says in one sentence what is wrong with the command line, and where its help is."""
    wrong: Any = failure  # its class has no public name
    if type(failure).__name__ == "NoArgsIsHelpError":  # the help is the message
        wrong.show()
        return EXIT_USAGE
    said = str(wrong.format_message()).strip().rstrip(".").replace("\n", " ")
    if str(getattr(wrong, "option_name", ""))[1:2].isdigit():
        said = f"{wrong.option_name!r} is taken for an option: a number must be positive"
    command = wrong.ctx.command_path if wrong.ctx is not None else "comitia"
    sentence = f"{said[:1].lower()}{said[1:]}; see `{command} --help`"
    typer.secho(f"comitia: {sentence}", fg=typer.colors.RED, err=True)
    return EXIT_USAGE
