"""Which models of a chain to go on with when a budget lets only the cheapest through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import CallNotBounded
from services.inference.domain.money_bound import bound_of
from services.inference.domain.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRates:
    """What a model takes for tokens, nano-USD per million."""

    input: int
    output: int


def cheapest_of(
    chain: Sequence[DeploymentVersion],
    known: Sequence[DeploymentVersion],
    *,
    rates: Mapping[str, TokenRates],
    prompt: Prompt,
) -> list[DeploymentVersion]:
    """Gives those of a chain that cost the least by the bound of this prompt, in the order of the chain.

    What costs more is left out even as a fallback: when the cheapest does not answer, a dearer one is not the cheapest.

    Args:
        chain: the refused one, and what may answer the call in its place.
        known: what the mesh would have asked as well, such as models that failed before, or the default for a call that
            names its model: when one of them is cheaper than all of these, nothing is left.
        rates: by the version's full name; those without a price, or whose bound nobody knows for this prompt, are never
            the cheapest, and are left out.
    """
    priced = {
        one.full_name: _price(one, rates[one.full_name], prompt) for one in (*chain, *known) if one.full_name in rates
    }
    prices = {name: price for name, price in priced.items() if price is not None}
    least = min(prices.values(), default=0)
    return [one for one in chain if prices.get(one.full_name) == least]


def _price(deployment: DeploymentVersion, rates: TokenRates, prompt: Prompt) -> int | None:
    try:
        bound = bound_of(prompt, deployment)
    except CallNotBounded:
        return None
    return bound.input * rates.input + bound.output * rates.output
