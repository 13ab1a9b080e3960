"""Opens the providers of versions: those of the settings by their adapter, registered ones by address and key."""

from collections.abc import Callable, Mapping
from typing import Final

from services.inference.domain.deployment import Adapter, AdapterForm, Capability, DeploymentVersion
from services.inference.domain.money_bound import OVERHEADS
from services.inference.providers.anthropic.messages import AnthropicProvider
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint, OpenAiProvider
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.servers.compatible import OpenAiCompatibleProvider
from services.inference.usecases.ports import AdapterClaims, EmbeddingProvider, ModelProvider
from services.meshkit.core.errors import Invalid
from services.meshkit.core.secret import Secret

#: Adapters that tenants may register, and where they usually are; empty: a version has to say it.
_USUAL: Final = {
    Adapter.OPENAI.value: "https://api.openai.com/v1",
    Adapter.ANTHROPIC.value: "https://api.anthropic.com",
    Adapter.OPENAI_COMPATIBLE.value: "",
}
#: Versions that a replica keeps open; the least recently opened one is closed.
_MOST_OPEN: Final = 1_000


class RegisterableAdapters:
    """Implements `Adapters`: what can be registered. The local model and the stub are the installation's own."""

    def claims(self, adapter: str) -> AdapterClaims:
        """See `Adapters.claims`."""
        if adapter not in _USUAL:
            raise Invalid("version.adapter", f"must be one of {', '.join(_USUAL)}")
        overhead = OVERHEADS[adapter]
        found = {Capability.TOOLS, Capability.IMAGES} if overhead.media else {Capability.TOOLS}
        return AdapterClaims(
            forms=frozenset({AdapterForm.WIRE}),
            capabilities=frozenset(found),
            overhead=overhead,
            prefills=False,
            needs_address=not _USUAL[adapter],
        )


class OpenedModels:
    """Implements `OpenModels`. A provider has no connection of its own, so none is left behind by one that is closed.

    Args:
        settled: providers of the settings, by adapter, and those that embed.
        http: what registered versions are asked by.
        secrets: gives the key of a registered version.
    """

    def __init__(
        self,
        settled: Mapping[str, ModelProvider],
        embedders: Mapping[str, EmbeddingProvider],
        *,
        http: ProviderHttp,
        secrets: Callable[[DeploymentVersion], Secret],
    ) -> None:
        self._settled = settled
        self._embedders = embedders
        self._http = http
        self._secrets = secrets
        self._open: dict[tuple[str, int], ModelProvider] = {}

    def provider(self, version: DeploymentVersion) -> ModelProvider:
        """See `OpenModels.provider`."""
        if not version.version:
            return self._settled[version.adapter]
        key = version.deployment_id, version.version
        found = self._open.get(key)
        if found is None:
            if len(self._open) >= _MOST_OPEN:
                del self._open[next(iter(self._open))]
            found = self._open[key] = self._made(version)
        return found

    def embedder(self, version: DeploymentVersion) -> EmbeddingProvider:
        """See `OpenModels.embedder`."""
        if not version.version:
            return self._embedders[version.adapter]
        return OpenAiEmbeddings(self._http, self._endpoint(version))

    def _made(self, version: DeploymentVersion) -> ModelProvider:
        endpoint = self._endpoint(version)
        if version.adapter == Adapter.ANTHROPIC:
            return AnthropicProvider(self._http, endpoint)
        if version.adapter == Adapter.OPENAI:
            return OpenAiProvider(self._http, endpoint)
        return OpenAiCompatibleProvider(self._http, endpoint)

    def _endpoint(self, version: DeploymentVersion) -> Endpoint:
        base_url = version.base_url or _USUAL[version.adapter]
        return Endpoint(base_url=base_url.rstrip("/"), key=self._secrets(version))
