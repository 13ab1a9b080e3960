"""The adapters there are: where each usually is, what it can do, and how it is opened.

Most ship with the mesh. A package that is installed beside it adds its own by an entry point, a name and an
`AdapterSpec`; it runs in this process, so whoever installs it trusts it with keys and prompts.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from services.inference.domain.deployment import Adapter, AdapterForm, Capability
from services.inference.domain.errors import AdapterUnusable
from services.inference.domain.money_bound import overhead_of
from services.inference.providers.anthropic.batch import AnthropicBatches
from services.inference.providers.anthropic.messages import AnthropicProvider, anthropic_headers
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.batch import OpenAiBatches
from services.inference.providers.openai.chat import AZURE, OPENAI, ChatProvider, Endpoint
from services.inference.providers.openai.chat_wire import Manners
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.openai.responses import ResponsesProvider
from services.inference.providers.probe import ModelsList
from services.inference.providers.sdk_form import (
    Load,
    LoadedLate,
    azure_client,
    chat_client,
    messages_client,
    responses_client,
)
from services.inference.providers.servers.manners import COMPATIBLE, LLAMA_CPP, LOCAL, OLLAMA, TGI, VLLM
from services.inference.usecases.batch_ports import BatchProvider
from services.inference.usecases.ports import AdapterClaims, EmbeddingProvider, ModelProvider, ProbedProvider
from services.meshkit.core.errors import Invalid

#: Entry points of this group are adapters of other packages.
ENTRY_POINTS: Final = "comitia.inference.adapters"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """One adapter."""

    #: Where it usually is, without a slash at the end; empty: a deployment has to say it.
    usual_address: str = ""
    capabilities: frozenset[Capability]
    open: Callable[[ProviderHttp, Endpoint], ModelProvider]
    #: How the official client of its provider is opened; None: there is no such form.
    open_sdk: Callable[[ProviderHttp, Endpoint], ModelProvider] | None = None
    #: Opens what asks for vectors; None: no model behind it embeds.
    embed: Callable[[ProviderHttp, Endpoint], EmbeddingProvider] | None = None

    @property
    def forms(self) -> frozenset[AdapterForm]:
        """The forms that it has."""
        return frozenset({AdapterForm.WIRE} if self.open_sdk is None else AdapterForm)

    def opened(self, form: AdapterForm, http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
        """Opens it in one of its forms."""
        if form is AdapterForm.SDK and self.open_sdk is not None:
            return self.open_sdk(http, endpoint)
        return self.open(http, endpoint)

    #: Opens what looks at a deployment without a prompt; None: it is asked only, never looked at.
    probe: Callable[[ProviderHttp, Endpoint], ProbedProvider] | None = None
    #: Opens its batch API; None: it has none.
    open_batches: Callable[[ProviderHttp, Endpoint], BatchProvider] | None = None


def _chat(
    manners: Manners, *capabilities: Capability, usual_address: str = "", client: Load | None = None
) -> AdapterSpec:
    return AdapterSpec(
        usual_address=usual_address,
        capabilities=frozenset({Capability.TOOLS, *capabilities}),
        open=partial(ChatProvider, manners=manners),
        open_sdk=client and partial(LoadedLate, load=client),
        probe=ModelsList,
        embed=OpenAiEmbeddings,
    )


_ALL: Final = (Capability.JSON_SCHEMA, Capability.IMAGES, Capability.DOCUMENTS)
_OPENAI: Final = "https://api.openai.com/v1"
CATALOGUE: Final[Mapping[str, AdapterSpec]] = {
    Adapter.OPENAI: replace(
        _chat(OPENAI, *_ALL, usual_address=_OPENAI, client=chat_client), open_batches=OpenAiBatches
    ),
    Adapter.OPENAI_RESPONSES: AdapterSpec(
        usual_address=_OPENAI,
        capabilities=frozenset({Capability.TOOLS, *_ALL}),
        open=ResponsesProvider,
        open_sdk=partial(LoadedLate, load=responses_client),
        probe=ModelsList,
        embed=OpenAiEmbeddings,
    ),
    Adapter.AZURE: _chat(AZURE, Capability.JSON_SCHEMA, Capability.IMAGES, client=azure_client),
    Adapter.ANTHROPIC: AdapterSpec(
        usual_address="https://api.anthropic.com",
        capabilities=frozenset({Capability.TOOLS, *_ALL}),
        open=AnthropicProvider,
        open_sdk=partial(LoadedLate, load=messages_client),
        probe=partial(ModelsList, path="/v1/models", headers=anthropic_headers),
        open_batches=AnthropicBatches,
    ),
    Adapter.VLLM: _chat(VLLM, Capability.JSON_SCHEMA),
    Adapter.TGI: _chat(TGI, Capability.JSON_SCHEMA),
    Adapter.OLLAMA: _chat(OLLAMA, Capability.JSON_SCHEMA),
    Adapter.LLAMA_CPP: _chat(LLAMA_CPP, Capability.JSON_SCHEMA),
    Adapter.OPENAI_COMPATIBLE: _chat(COMPATIBLE),
    Adapter.LOCAL: _chat(LOCAL, Capability.JSON_SCHEMA),
}


def installed_adapters() -> Mapping[str, AdapterSpec]:
    """Gives the adapters that ship with the mesh, and those of packages that are installed beside it.

    Raises: AdapterUnusable: one of these has a name that is taken, or cannot be loaded.
    """
    found = dict(CATALOGUE)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found or point.name == Adapter.STUB:
            raise AdapterUnusable(point.name, f"{point.value} brings it, and the name is taken")
        if not _NAME.fullmatch(point.name):
            raise AdapterUnusable(point.name, "its name must be 1 to 32 small letters, digits and `_`")
        found[point.name] = _loaded(point)
    return found


def _loaded(point: EntryPoint) -> AdapterSpec:
    try:
        spec: object = point.load()
    except Exception as cause:  # what a package of others does when it is loaded is not known
        raise AdapterUnusable(point.name, f"{point.value} cannot be loaded: {cause}") from cause
    if not isinstance(spec, AdapterSpec):
        raise AdapterUnusable(point.name, f"{point.value} is no AdapterSpec")
    return spec


class Catalogue:
    """Implements `Adapters`: those of models that may be registered. Local model and stub are the installation's own.

    What stands inside the mesh is bound to no region and free of charge, so nobody may say it of a model of theirs.
    """

    def __init__(self, specs: Mapping[str, AdapterSpec] = CATALOGUE) -> None:
        self._specs = specs

    def claims(self, adapter: str) -> AdapterClaims:
        """See `Adapters.claims`."""
        spec = self._specs.get(adapter)
        if spec is None or adapter == Adapter.LOCAL:
            known = ", ".join(name for name in self._specs if name != Adapter.LOCAL)
            raise Invalid("version.adapter", f"must be one of {known}")
        return AdapterClaims(
            forms=spec.forms,
            capabilities=spec.capabilities,
            overhead=overhead_of(adapter),
            prefills=False,
            needs_address=not spec.usual_address,
            embeds=spec.embed is not None,
        )
