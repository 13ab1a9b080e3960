"""Models that the mesh can ask, and the chain in which it asks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from services.inference.domain.errors import ModelNotFound, NoModelConfigured

#: The name that stands for the chain.
DEFAULT: Final = "default"


class Adapter(StrEnum):
    """Who speaks to a deployment: the adapters that ship with the mesh."""

    OPENAI = "openai"
    #: OpenAI in the newer of its dialects.
    OPENAI_RESPONSES = "openai_responses"
    #: OpenAI's models at Azure, by its `/openai/v1` address.
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    VLLM = "vllm"
    TGI = "tgi"
    OLLAMA = "ollama"
    LLAMA_CPP = "llama_cpp"
    #: A server that speaks OpenAI's dialect, of which nobody knows more.
    OPENAI_COMPATIBLE = "openai_compatible"
    LOCAL = "local"
    STUB = "stub"


class AdapterForm(StrEnum):
    """How an adapter speaks: by itself, or by the provider's official client."""

    WIRE = "wire"
    SDK = "sdk"


class Capability(StrEnum):
    """What a model can do beside answering with text."""

    TOOLS = "tools"
    #: Its provider keeps it to a JSON Schema.
    JSON_SCHEMA = "json_schema"
    IMAGES = "images"
    DOCUMENTS = "documents"


class Tier(IntEnum):
    """How good a model is; one nobody has judged counts as the lowest."""

    UNKNOWN = 0
    BRONZE = 1
    SILVER = 2
    GOLD = 3


class VersionState(StrEnum):
    """Whether a version may be asked."""

    CHECKING = "checking"
    READY = "ready"
    REFUSED = "refused"
    RETIRED = "retired"


class Task(StrEnum):
    """What a model does."""

    GENERATE = "generate"
    EMBED = "embed"


def usual_payee(adapter: str) -> str:
    """Gives who is paid where nobody says: however it is spoken to, OpenAI is."""
    return Adapter.OPENAI if adapter == Adapter.OPENAI_RESPONSES else adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentVersion:
    """One model behind one adapter, as one version of a deployment describes it. Only its state ever changes."""

    #: Name of the deployment, such as `openai/gpt-4o-mini`: what callers ask for.
    name: str
    #: Who speaks to it: an `Adapter`, or one that the installation adds.
    adapter: str
    #: Model as the provider names it.
    model: str
    task: Task = Task.GENERATE
    in_default_chain: bool = True
    #: Region it runs in; empty means unknown.
    region: str = ""
    #: Id of the deployment, `dep_…`; empty for one of the settings.
    deployment_id: str = ""
    #: Number of the version, from 1; 0 for one of the settings, which every tenant sees and no RPC changes.
    version: int = 0
    state: VersionState = VersionState.READY
    form: AdapterForm = AdapterForm.WIRE
    #: Who is paid, as price lists know it; empty: whoever the adapter speaks to.
    provider: str = ""
    #: Where it is; empty: where the adapter's provider usually is.
    base_url: str = ""
    #: Tokens that its window holds, prompt and answer together; 0 means unknown.
    context_tokens: int = 0
    #: Longest answer that it gives, tokens; 0 means unknown.
    max_output_tokens: int = 0
    #: What it can do; None when nobody said.
    capabilities: frozenset[Capability] | None = None
    tier: Tier = Tier.UNKNOWN
    #: Calls that it takes of one replica at once and in a minute, and tokens in a minute. 0: any number.
    max_concurrency: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    #: Most tokens that a picture takes; 0: as the adapter knows.
    image_tokens: int = 0

    @property
    def full_name(self) -> str:
        """Name of the version itself, such as `acme/writer@3`; for one of the settings that of its deployment."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def payee(self) -> str:
        """Who the ledger pays."""
        return self.provider or usual_payee(self.adapter)

    @property
    def inside_mesh(self) -> bool:
        """True when content does not leave the mesh for it, so that no rule of residency can be broken."""
        return self.adapter in (Adapter.LOCAL, Adapter.STUB)

    def keeps_in(self, *regions: str) -> bool:
        """Says whether content that must stay in all of these may go there: `eu` covers `eu` and `eu-west-1`.

        An empty one asks for nothing. A deployment whose region nobody knows keeps no content in any.
        """
        return self.inside_mesh or all(
            not region or self.region == region or self.region.startswith(f"{region}-") for region in regions
        )


class Deployments:
    """All configured deployments, in the chain's order; those to be asked for by name come last."""

    def __init__(self, deployments: Sequence[DeploymentVersion]) -> None:
        self.all: Final = (
            *(one for one in deployments if one.in_default_chain),
            *(one for one in deployments if not one.in_default_chain),
        )

    def generators(self, name: str, *, regions: tuple[str, ...] = ()) -> tuple[DeploymentVersion, ...]:
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

    def default_generators(self, *, regions: tuple[str, ...] = ()) -> tuple[DeploymentVersion, ...]:
        """Gives the chain that is asked when nobody names a model; may be empty."""
        return tuple(one for one in self._named(DEFAULT, Task.GENERATE) if one.keeps_in(*regions))

    def default_embedder(self) -> DeploymentVersion | None:
        """Gives the deployment that embeds when nobody names one."""
        return next(iter(self._named(DEFAULT, Task.EMBED)), None)

    def _named(self, name: str, task: Task) -> tuple[DeploymentVersion, ...]:
        of_task = tuple(one for one in self.all if one.task is task)
        if name in ("", DEFAULT):
            return tuple(one for one in of_task if one.in_default_chain)
        named = tuple(one for one in of_task if one.name == name)
        if named:
            return named
        # As its provider calls it, so that clients of that provider need not be told our names; if only one has it.
        of_model = tuple(one for one in of_task if one.model == name)
        return of_model if len(of_model) == 1 else ()


def _both(regions: tuple[str, ...]) -> str:
    return " and ".join(sorted({region for region in regions if region}))
