"""Bundles of rules, as forks pin them."""

from typing import Final

import grpc.aio

from comitia.policy.v1 import policy_service_pb2, policy_service_pb2_grpc
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Caller
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.orchestrator.domain.errors import BundleNotFound

_SECONDS: Final = 5.0


class BundleCatalogue:
    """Implements `usecases.ports.Bundles`."""

    def __init__(self, policy: grpc.aio.Channel) -> None:
        self._bundles = policy_service_pb2_grpc.BundleServiceStub(policy)

    async def digest(self, caller: Caller, bundle: str) -> str:
        """See `Bundles.digest`."""
        request = policy_service_pb2.GetBundleRequest(bundle=bundle)
        try:
            with remote_errors():
                answer = await self._bundles.GetBundle(
                    request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
                )
        except MeshError as refusal:
            if refusal.kind is ErrorKind.NOT_FOUND:
                raise BundleNotFound(bundle, field="policy") from refusal
            raise
        return answer.bundle.digest
