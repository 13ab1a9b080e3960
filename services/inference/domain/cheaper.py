"""Which models of a chain to go on with when a budget lets only the cheapest through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.domain.deployment import Deployment
from services.inference.domain.money_bound import bound_of
from services.inference.domain.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRates:
    """What a model takes for tokens, nano-USD per million."""

    input: int
    output: int


def cheapest_first(
    refused: Deployment,
    chain: Sequence[Deployment],
    known: Sequence[Deployment],
    *,
    rates: Mapping[str, TokenRates],
    prompt: Prompt,
) -> list[Deployment]:
    """Orders those of a chain that cost no more than the refused one, cheapest first, by the bound of this prompt.

    Args:
        chain: the refused one, and what may answer the call in its place.
        known: what the mesh would ask by default, for a call that names its model: when that is dearer than one of
            these, nothing is left, for who asked for a model by name gets no other.
        rates: by the deployment's name; those without a price cannot be held for, and are left out.
    """
    prices = {one.name: _price(one, rates[one.name], prompt) for one in (*chain, *known, refused) if one.name in rates}
    if refused.name not in prices:
        return []
    left = [one for one in chain if one.name in prices and prices[one.name] <= prices[refused.name]]
    # Sorting keeps the order of the chain among equals.
    left.sort(key=lambda one: prices[one.name])
    return left if left and prices[left[0].name] <= min(prices.values()) else []


def _price(deployment: Deployment, rates: TokenRates, prompt: Prompt) -> int:
    bound = bound_of(prompt, deployment.adapter)
    return bound.input * rates.input + bound.output * rates.output
