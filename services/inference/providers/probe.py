"""Looks at a provider without a prompt: whether it answers when it is asked which models it has."""

from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderFailure
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import Probe

#: A server that has no such list is there all the same.
_THERE: Final = (200, 404, 405)


class ModelsList:
    """Implements `ProbedProvider` by an address that lists models. Nothing of any tenant's is sent but the key."""

    def __init__(
        self,
        http: ProviderHttp,
        endpoint: Endpoint,
        *,
        path: str = "/models",
        headers: Callable[[Endpoint], Mapping[str, str]] = Endpoint.headers,
    ) -> None:
        self._http = http
        self._url = f"{endpoint.base_url}{path}"
        self._headers = headers(endpoint)

    async def probe(self, deployment: DeploymentVersion, *, seconds: float) -> Probe:
        """See `ProbedProvider.probe`."""
        began, failure = perf_counter_ns(), ""
        try:
            await self._http.look(deployment.name, self._url, self._headers, seconds=seconds, fine=_THERE)
        except ProviderFailure as error:
            failure = error.reason
        return Probe(failure=failure, latency_us=(perf_counter_ns() - began) // 1000)
