"""Opens the adapters of the configured deployments."""

from collections.abc import Mapping

from services.inference.domain.deployment import Adapter, AdapterForm
from services.inference.domain.errors import AdapterUnusable
from services.inference.providers.catalogue import AdapterSpec
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.stub import StubProvider
from services.inference.settings import InferenceSettings
from services.inference.usecases.batch_ports import BatchProvider
from services.inference.usecases.ports import EmbeddingProvider, ModelProvider, ProbedProvider
from services.meshkit.core.secret import NO_SECRET, Secret


def providers(
    settings: InferenceSettings, http: ProviderHttp, adapters: Mapping[str, AdapterSpec]
) -> dict[str, ModelProvider]:
    """Makes the adapters of what is configured.

    Raises: AdapterUnusable: one that is named is not installed.
    """
    endpoints = _all_endpoints(settings)
    forms = {settings.openai_adapter: settings.openai_form, Adapter.ANTHROPIC: settings.anthropic_form}
    made = {
        adapter: _named(adapter, adapters).opened(AdapterForm(forms.get(adapter, "wire")), http, endpoint)
        for adapter, endpoint in endpoints.items()
    }
    if settings.stub_enabled:
        made[Adapter.STUB] = StubProvider()
    return made


def batchers(
    settings: InferenceSettings, http: ProviderHttp, adapters: Mapping[str, AdapterSpec]
) -> dict[str, BatchProvider]:
    """Makes the batch APIs of what is configured, of those that have one."""
    made: dict[str, BatchProvider] = {}
    for adapter, endpoint in _all_endpoints(settings).items():
        opened = _named(adapter, adapters).open_batches
        if opened is not None:
            made[adapter] = opened(http, endpoint)
    return made


def probers(
    settings: InferenceSettings, http: ProviderHttp, adapters: Mapping[str, AdapterSpec]
) -> dict[str, ProbedProvider]:
    """Makes what looks at those of them that can be looked at without a prompt."""
    opens = {adapter: _named(adapter, adapters).probe for adapter in _all_endpoints(settings)}
    return {
        adapter: opened(http, endpoint)
        for adapter, endpoint in _all_endpoints(settings).items()
        if (opened := opens[adapter]) is not None
    }


def _named(adapter: str, adapters: Mapping[str, AdapterSpec]) -> AdapterSpec:
    if adapter not in adapters:
        raise AdapterUnusable(adapter, f"it is not installed; there are: {', '.join(sorted(adapters))}")
    return adapters[adapter]


def embedders(settings: InferenceSettings, http: ProviderHttp) -> dict[str, EmbeddingProvider]:
    """Makes the adapters of what is configured to embed."""
    return {adapter: OpenAiEmbeddings(http, endpoint) for adapter, endpoint in _endpoints(settings).items()}


def _all_endpoints(settings: InferenceSettings) -> dict[str, Endpoint]:
    endpoints = _endpoints(settings)
    if settings.anthropic_api_key is not None:
        endpoints[Adapter.ANTHROPIC] = Endpoint(
            base_url=settings.anthropic_base_url.rstrip("/"), key=Secret(settings.anthropic_api_key.get_secret_value())
        )
    return endpoints


def _endpoints(settings: InferenceSettings) -> dict[str, Endpoint]:
    """Gives the addresses at which OpenAI's dialect is spoken."""
    endpoints: dict[str, Endpoint] = {}
    if settings.openai_api_key is not None:
        endpoints[settings.openai_adapter] = Endpoint(
            base_url=settings.openai_base_url.rstrip("/"), key=Secret(settings.openai_api_key.get_secret_value())
        )
    if settings.compatible_base_url is not None:
        given = settings.compatible_api_key
        key = NO_SECRET if given is None else Secret(given.get_secret_value())
        endpoints[settings.compatible_adapter] = Endpoint(base_url=settings.compatible_base_url.rstrip("/"), key=key)
    if settings.local_model_url is not None:
        endpoints[Adapter.LOCAL] = Endpoint(base_url=f"{settings.local_model_url.rstrip('/')}/v1")
    return endpoints
