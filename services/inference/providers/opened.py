"""Opens the providers of versions: those of the settings by their adapter, registered ones by address and key."""

from collections.abc import Callable, Mapping
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import AdapterUnusable
from services.inference.providers.catalogue import AdapterSpec
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.batch_ports import BatchProvider
from services.inference.usecases.ports import EmbeddingProvider, ModelProvider, ProbedProvider
from services.meshkit.core.secret import Secret

#: Versions that a replica keeps open; the one opened the longest ago is closed.
_MOST_OPEN: Final = 1_000


class OpenedModels:
    """Implements `OpenModels`, `OpenEmbedders`, `OpensProbes` and `OpenBatches`.

    A provider has no connection of its own, so none is left behind by one that is closed.

    Args:
        settled: providers of the settings, by adapter.
        looked_at: what looks at those of the settings, by adapter.
        embedders: those of the settings that embed, by adapter.
        adapters: what registered versions may name.
        http: what registered versions are asked by.
        secrets: gives the key of a registered version.
        settled_batches: batch APIs of the settings, by adapter.
    """

    def __init__(
        self,
        settled: Mapping[str, ModelProvider],
        *,
        looked_at: Mapping[str, ProbedProvider],
        embedders: Mapping[str, EmbeddingProvider],
        adapters: Mapping[str, AdapterSpec],
        http: ProviderHttp,
        secrets: Callable[[DeploymentVersion], Secret],
        settled_batches: Mapping[str, BatchProvider],
    ) -> None:
        self._settled = settled
        self._looked_at = looked_at
        self._settled_batches = settled_batches
        self._embedders = embedders
        self._adapters = adapters
        self._http = http
        self._secrets = secrets
        #: By id of the deployment and number, with the key that each was opened with.
        self._open: dict[tuple[str, int], tuple[Secret, ModelProvider]] = {}

    def provider(self, version: DeploymentVersion) -> ModelProvider:
        """See `OpenModels.provider`."""
        if not version.version:
            return self._settled[version.adapter]
        named, key = (version.deployment_id, version.version), self._secrets(version)
        found = self._open.get(named)
        if found is None or found[0] != key:
            found = self._open[named] = (key, self._made(version, key))
            if len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]
        return found[1]

    def prober(self, version: DeploymentVersion) -> ProbedProvider | None:
        """See `OpensProbes.prober`."""
        if not version.version:
            return self._looked_at.get(version.adapter)
        spec = self._spec(version)
        return None if spec.probe is None else spec.probe(self._http, _endpoint(spec, version, self._secrets(version)))

    def batcher(self, version: DeploymentVersion) -> BatchProvider | None:
        """See `OpenBatches.batcher`. Asked rarely, so none is kept."""
        if not version.version:
            return self._settled_batches.get(version.adapter)
        spec = self._spec(version)
        if spec.open_batches is None:
            return None
        return spec.open_batches(self._http, _endpoint(spec, version, self._secrets(version)))

    def embedder(self, version: DeploymentVersion) -> EmbeddingProvider:
        """See `OpenEmbedders.embedder`."""
        if not version.version:
            return self._embedders[version.adapter]
        spec = self._spec(version)
        if spec.embed is None:
            raise AdapterUnusable(version.adapter, "no model behind it embeds any more")
        return spec.embed(self._http, _endpoint(spec, version, self._secrets(version)))

    def _made(self, version: DeploymentVersion, key: Secret) -> ModelProvider:
        spec = self._spec(version)
        return spec.opened(version.form, self._http, _endpoint(spec, version, key))

    def _spec(self, version: DeploymentVersion) -> AdapterSpec:
        spec = self._adapters.get(version.adapter)
        if spec is None:
            raise AdapterUnusable(version.adapter, "no package that is installed brings it any more")
        return spec


def _endpoint(spec: AdapterSpec, version: DeploymentVersion, key: Secret) -> Endpoint:
    return Endpoint(base_url=version.base_url.rstrip("/") or spec.usual_address, key=key)
