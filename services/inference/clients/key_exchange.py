"""Exchanges API keys for access tokens at the gateway."""

from typing import Final

import grpc.aio

from comitia.gateway.v1 import identity_service_pb2
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.errors import remote_errors

_TIMEOUT_SECONDS: Final = 5.0


class GatewayKeyExchange:
    """Implements `KeyExchange`."""

    def __init__(self, to_gateway: grpc.aio.Channel) -> None:
        self._identity = IdentityServiceStub(to_gateway)

    async def token(self, key: str) -> Secret:
        """See `KeyExchange.token`."""
        with remote_errors():
            given = await self._identity.ExchangeApiKey(
                identity_service_pb2.ExchangeApiKeyRequest(api_key=key), timeout=_TIMEOUT_SECONDS
            )
        return Secret(given.access_token)
