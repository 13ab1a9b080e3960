"""`comitia prices`: what models cost, and new prices."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import (
    Form,
    FormOption,
    as_json,
    dollars,
    moment,
    one_line,
    show_json,
    show_lines,
    show_one,
    show_rows,
)
from comitia_sdk.cli.reading import read_dollars, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comitia.cost.v1.cost_pb2 import Price


class Rule(StrEnum):
    """What is done with calls of models that have no price."""

    REFUSE = "refuse"
    FLAG = "flag"


app = typer.Typer(no_args_is_help=True, help="What models cost.")

_FORMATS: Final = {".csv": "csv", ".json": "json"}
_COLUMNS: Final = ("provider", "model", "prompts from", "in", "cache read", "out", "since", "source")
#: Stands below prices.
_UNIT: Final = "in dollars per million tokens"
_CLASSES: Final = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_in",
    "audio_out",
    "image",
)


@app.command("list")
def list_(
    provider: Annotated[str, typer.Option(metavar="PROVIDER", help="Only this provider.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Lists the prices that hold now, in dollars per million tokens.

    Example:  comitia prices list --provider openai
    """
    with client() as mesh:
        found = list(mesh.costs.prices(provider=provider))
    show_rows(output, found, _COLUMNS, _rows(found), empty="no prices")
    if found and output is Form.TABLE:
        typer.echo(_UNIT)


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="PROVIDER/MODEL", help="Such as `openai/gpt-4o-mini`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Shows what every class of token of a model costs now, in dollars per million.

    Example:  comitia prices show openai/gpt-4o-mini
    """
    provider, _, name = model.partition("/")
    if not name:
        raise CommandFailed(f"{model!r} names no provider{_providers_of(model)}", code=EXIT_USAGE)
    with client() as mesh:
        found = [price for price in mesh.costs.prices(provider=provider) if _is_named(price, name)]
    if not found:
        raise CommandFailed(f"there is no price of {model!r}; `comitia prices list` shows all", code=EXIT_REFUSED)
    if output is Form.JSON:
        show_json([as_json(price) for price in found])
        return
    for number, price in enumerate(found):
        if number:
            typer.echo()
        show_lines(
            [
                ("model", f"{price.provider}/{price.model}"),
                ("also named", _aliases(price)),
                ("prompts from", f"{price.min_prompt_tokens} tokens on" if price.min_prompt_tokens else ""),
                *(
                    (name.replace("_", " "), dollars(getattr(price, f"{name}_nano_usd_per_million")))
                    for name in _CLASSES
                ),
                ("since", moment(price.start_time)),
                ("until", moment(price.end_time)),
                ("source", price.source),
                ("digest", price.digest),
            ]
        )
    typer.echo(_UNIT)


@app.command()
def unknown(
    rule: Annotated[
        Rule | None,
        typer.Argument(help="What to do with calls of models that have no price.", show_default=False),
    ] = None,
    ceiling: Annotated[
        str,
        typer.Option(
            metavar="DOLLARS",
            help="With flag: the most that a million tokens may cost; the lowest that is allowed unless given.",
        ),
    ] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows or sets what is done with calls of models whose price nobody knows.

    They are refused, or with `flag` they are held and charged at a ceiling, so that budgets hold, and marked as
    unpriced until their price is imported and `comitia costs reprice` corrects the charges.

    Example:  comitia prices unknown flag --ceiling 750
    """
    if ceiling and rule is not Rule.FLAG:
        raise CommandFailed("--ceiling goes with flag", code=EXIT_USAGE)
    with client() as mesh:
        if rule is None:
            found = mesh.costs.unknown_price()
        else:
            most = read_dollars(ceiling) if ceiling else 0
            found = mesh.costs.set_unknown_price(rule.value, ceiling_nano_usd_per_million=most)
    flags = found.ceiling_nano_usd_per_million > 0
    show_one(
        output,
        found,
        [
            ("calls of models without a price", "pass at the ceiling, marked" if flags else "are refused"),
            ("ceiling", f"{dollars(found.ceiling_nano_usd_per_million)} a million tokens" if flags else ""),
            ("lowest allowed", f"{dollars(found.least_ceiling_nano_usd_per_million)} a million tokens"),
        ],
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A price list, FILE.csv or FILE.json.")],
    source: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the prices come from; the name of the file if it is not given.")
    ] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="Import it; without this what would change is only shown.")
    ] = False,
    confirm_unit: Annotated[
        bool, typer.Option("--confirm-unit", help="Prices far from what their models cost are right all the same.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Imports a price list for all tenants. Shows what would change first. Every fault is named by line and field.

    A CSV begins with the names of its columns: provider, model, start_time, input_usd_per_million,
    output_usd_per_million, and as you need them aliases, end_time, min_prompt_tokens, and cache_read, cache_write_5m,
    cache_write_1h, reasoning, audio_in, audio_out, image, each with _usd_per_million. A line of it is
    `acme,big,2026-11-01,2.50,10`. For operators of the installation.

    Example:  comitia prices import prices.csv --apply
    """
    form = _FORMATS.get(file.suffix.lower())
    if form is None:
        raise CommandFailed(f"{file} must end in .csv or .json", code=EXIT_USAGE)
    content = read_text(file)
    with client() as mesh:
        answer = mesh.costs.import_prices(
            content, form=form, source=source or file.name, apply=apply, confirm_unit=confirm_unit
        )
    if output is Form.JSON:
        show_json(as_json(answer))
        return
    rows = [
        (name, *row, _aliases(price))
        for change in answer.changes
        for name, prices in (("before", change.before), ("after", change.after))
        for price, row in zip(prices, _rows(prices), strict=True)
    ]
    show_rows(output, [], ("", *_COLUMNS, "also named"), rows, empty="no price changes")
    if rows:
        typer.echo(_UNIT)
    changed, held = answer.change_count, answer.unchanged_count
    told = f"{_counted(changed)} change{'s' * (changed == 1)}, {held} of the list held already"
    typer.echo(told if apply else f"{told}; nothing was written, --apply imports the list")


def _providers_of(model: str) -> str:
    """Says under which names of providers a model without one has a price."""
    with client() as mesh:
        found = {f"{price.provider}/{model}" for price in mesh.costs.prices() if _is_named(price, model)}
    return "; it may be " + ", ".join(sorted(found)) if found else ", such as openai/gpt-4o-mini"


def _counted(prices: int) -> str:
    return "1 price" if prices == 1 else f"{prices} prices"


def _is_named(price: "Price", name: str) -> bool:
    return name.lower() in (one.lower() for one in (price.model, *price.aliases))


def _aliases(price: "Price") -> str:
    return one_line(", ".join(price.aliases))


def _rows(prices: "Iterable[Price]") -> list[tuple[str, ...]]:
    return [
        (
            price.provider,
            price.model,
            str(price.min_prompt_tokens) if price.min_prompt_tokens else "",
            dollars(price.input_nano_usd_per_million),
            dollars(price.cache_read_nano_usd_per_million),
            dollars(price.output_nano_usd_per_million),
            moment(price.start_time)[:10],
            price.source,
        )
        for price in prices
    ]
