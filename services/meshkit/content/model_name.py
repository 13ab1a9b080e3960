"""The names under which the price of a model is looked for: one rule for whoever asks what a model costs.

Names are written as people and providers like, so they are compared in one form. A release without a price of its own
costs what its family costs, and a provider may have one price for all of its models.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

V = TypeVar("V")

#: Name of a price that holds for every model of its provider, such as a local one.
ANY_MODEL: Final = "*"

#: Provider and name, in the form that names are compared in.
NameKey = tuple[str, str]

#: A release date or `latest` at the end of a model's name.
_RELEASE: Final = re.compile(r"[-@](?:[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}|latest)\Z")


def name_key(provider: str, name: str) -> NameKey:
    """Gives what a name is compared by: however it is written, it means the same."""
    return provider.lower(), name.lower()


def price_keys(provider: str, model: str) -> Iterator[NameKey]:
    """Gives the names under which a model's price may stand; the first that has one is meant.

    Its own comes first, since a dated release may cost something else than its family; then the name without its date;
    then that of all models of the provider.
    """
    whose, name = name_key(provider, model)
    yield whose, name
    yield whose, _RELEASE.sub("", name)
    yield whose, ANY_MODEL


def priced(table: Mapping[NameKey, V], provider: str, model: str) -> V | None:
    """Finds what stands in a table for a model; None: its price is unknown."""
    return next((table[key] for key in price_keys(provider, model) if key in table), None)
