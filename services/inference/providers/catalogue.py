"""The adapters that ship with the mesh: where each usually is, what it can do, and how it is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from services.inference.domain.deployment import Adapter, AdapterForm, Capability
from services.inference.domain.money_bound import OVERHEADS
from services.inference.providers.anthropic.messages import AnthropicProvider
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import OPENAI, ChatProvider, Endpoint
from services.inference.providers.openai.chat_wire import Manners
from services.inference.providers.openai.responses import ResponsesProvider
from services.inference.providers.servers.manners import COMPATIBLE, LLAMA_CPP, LOCAL, OLLAMA, TGI, VLLM
from services.inference.usecases.ports import AdapterClaims, ModelProvider
from services.meshkit.core.errors import Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """One adapter."""

    #: Where it usually is, without a slash at the end; empty: a deployment has to say it.
    usual_address: str = ""
    capabilities: frozenset[Capability]
    open: Callable[[ProviderHttp, Endpoint], ModelProvider]


def _chat(manners: Manners, *capabilities: Capability, usual_address: str = "") -> AdapterSpec:
    return AdapterSpec(
        usual_address=usual_address,
        capabilities=frozenset({Capability.TOOLS, *capabilities}),
        open=partial(ChatProvider, manners=manners),
    )


_ALL: Final = (Capability.JSON_SCHEMA, Capability.IMAGES, Capability.DOCUMENTS)
_OPENAI: Final = "https://api.openai.com/v1"
CATALOGUE: Final[Mapping[str, AdapterSpec]] = {
    Adapter.OPENAI: _chat(OPENAI, *_ALL, usual_address=_OPENAI),
    Adapter.OPENAI_RESPONSES: AdapterSpec(
        usual_address=_OPENAI,
        capabilities=frozenset({Capability.TOOLS, *_ALL}),
        open=ResponsesProvider,
    ),
    # Azure reads PDFs by its Responses API only.
    Adapter.AZURE: _chat(replace(OPENAI, pdfs=False), Capability.JSON_SCHEMA, Capability.IMAGES),
    Adapter.ANTHROPIC: AdapterSpec(
        usual_address="https://api.anthropic.com",
        capabilities=frozenset({Capability.TOOLS, *_ALL}),
        open=AnthropicProvider,
    ),
    Adapter.VLLM: _chat(VLLM, Capability.JSON_SCHEMA),
    Adapter.TGI: _chat(TGI, Capability.JSON_SCHEMA),
    Adapter.OLLAMA: _chat(OLLAMA, Capability.JSON_SCHEMA),
    Adapter.LLAMA_CPP: _chat(LLAMA_CPP, Capability.JSON_SCHEMA),
    Adapter.OPENAI_COMPATIBLE: _chat(COMPATIBLE),
    Adapter.LOCAL: _chat(LOCAL, Capability.JSON_SCHEMA),
}


class Catalogue:
    """Implements `Adapters`. The stub is no adapter: it speaks to nobody."""

    def claims(self, adapter: str) -> AdapterClaims:
        """See `Adapters.claims`."""
        spec = CATALOGUE.get(adapter)
        if spec is None:
            raise Invalid("version.adapter", f"must be one of {', '.join(CATALOGUE)}")
        return AdapterClaims(
            forms=frozenset({AdapterForm.WIRE}),
            capabilities=spec.capabilities,
            overhead=OVERHEADS[adapter],
            prefills=False,
        )
