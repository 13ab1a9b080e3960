"""Models that the mesh can ask, and the chain in which it asks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.inference.domain.errors import ModelNotFound, NoEmbedderConfigured, NoModelConfigured

#: The name that stands for the chain.
DEFAULT: Final = "default"


class Adapter(StrEnum):
    """Who speaks to a deployment; also the provider that the ledger pays."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OPENAI_COMPATIBLE = "openai_compatible"
    LOCAL = "local"
    STUB = "stub"

    @property
    def inside_mesh(self) -> bool:
        """True when content does not leave the mesh for it, so that no rule of residency can be broken."""
        return self in (Adapter.LOCAL, Adapter.STUB)


class Task(StrEnum):
    """What a model does."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One model behind one adapter."""

    #: Name to ask for, such as `openai/gpt-4o-mini`.
    name: str
    adapter: Adapter
    #: Model as the provider names it.
    model: str
    task: Task = Task.GENERATE
    in_default_chain: bool = True
    #: Region it runs in; empty means unknown.
    region: str = ""

    def keeps_in(self, *regions: str) -> bool:
        """Says whether content that must stay in all of these may go there: `eu` covers `eu` and `eu-west-1`.

        An empty one asks for nothing. A deployment whose region nobody knows keeps no content in any.
        """
        return self.adapter.inside_mesh or all(
            not region or self.region == region or self.region.startswith(f"{region}-") for region in regions
        )


class Deployments:
    """All configured deployments, in the chain's order; those to be asked for by name come last."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self.all: Final = (
            *(one for one in deployments if one.in_default_chain),
            *(one for one in deployments if not one.in_default_chain),
        )

    def generators(self, name: str, *, regions: tuple[str, ...] = ()) -> tuple[Deployment, ...]:
        """Gives the deployments to try for a model name, in order; at least one.

        Raises: ModelNotFound, NoModelConfigured.
        """
        found = self._named(name, Task.GENERATE)
        if not found and name not in ("", DEFAULT):
            raise ModelNotFound(name)
        allowed = tuple(one for one in found if one.keeps_in(*regions))
        if not allowed:
            raise NoModelConfigured(region=_both(regions) if found else "")
        return allowed

    def default_generators(self, *, regions: tuple[str, ...] = ()) -> tuple[Deployment, ...]:
        """Gives the chain that is asked when nobody names a model; may be empty."""
        return tuple(one for one in self._named(DEFAULT, Task.GENERATE) if one.keeps_in(*regions))

    def embedder(self, name: str, *, regions: tuple[str, ...] = ()) -> Deployment:
        """Gives the deployment that embeds. No chain: vectors of different models never compare.

        Raises: ModelNotFound, NoEmbedderConfigured, NoModelConfigured (none in the region).
        """
        found = self._named(name, Task.EMBED)
        if not found:
            raise NoEmbedderConfigured if name in ("", DEFAULT) else ModelNotFound(name)
        if not found[0].keeps_in(*regions):
            raise NoModelConfigured(region=_both(regions))
        return found[0]

    def _named(self, name: str, task: Task) -> tuple[Deployment, ...]:
        of_task = tuple(one for one in self.all if one.task is task)
        if name in ("", DEFAULT):
            return tuple(one for one in of_task if one.in_default_chain)
        return tuple(one for one in of_task if one.name == name)


def _both(regions: tuple[str, ...]) -> str:
    return " and ".join(sorted({region for region in regions if region}))
