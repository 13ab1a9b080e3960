"""What is asked of the mesh about callers."""

from collections.abc import Mapping
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from comitia.gateway.v1 import identity_service_pb2, identity_service_pb2_grpc
from comitia_sdk.asgi.signed_token import NotValid, decoded
from comitia_sdk.connection import Connection, Doors
from comitia_sdk.context import find_context
from comitia_sdk.credentials import Exchange, NoCredentials, Token
from comitia_sdk.errors import PermissionDenied

#: A request of the application waits this long for the mesh, seconds.
_TIMEOUT_SECONDS: Final = 5.0
#: The caller is who they say, and may not even ask who they are.
_NARROWED: Final = "PERMISSION_MISSING"


class IdentityDoors(Exchange, Protocol):
    """The doors of a mesh at which callers are known."""

    async def key_set(self) -> Mapping[str, Ed25519PublicKey]:
        """Gives the public keys that verify access tokens, by id. Raises: ComitiaError."""
        ...

    async def confirm(self, credential: str) -> None:
        """Asks whether an access token or API key is taken right now.

        Raises: Unauthenticated: it is not, or no longer. PermissionDenied: nothing may be done with it. ComitiaError.
        """
        ...

    async def aclose(self) -> None:
        """Leaves the mesh."""
        ...


class MeshDoors:
    """The doors of a real mesh. Opened by the first question, since channels belong to the loop that runs then.

    Args:
        url: of the edge; empty as in `AsyncClient`.
    """

    def __init__(self, url: str = "") -> None:
        self._url = find_context(url=url).url
        self._opened: Connection | None = None

    async def key_set(self) -> Mapping[str, Ed25519PublicKey]:
        """See `IdentityDoors.key_set`."""
        stub = identity_service_pb2_grpc.IdentityServiceStub(self._connection.channel)
        request = identity_service_pb2.GetKeySetRequest()
        answer = await self._connection.call_open(stub.GetKeySet, request, timeout=_TIMEOUT_SECONDS)
        return {key.kid: found for key in answer.keys if (found := _public(key)) is not None}

    async def confirm(self, credential: str) -> None:
        """See `IdentityDoors.confirm`."""
        stub = identity_service_pb2_grpc.IdentityServiceStub(self._connection.channel)
        request = identity_service_pb2.WhoAmIRequest()
        try:
            await self._connection.call_open(stub.WhoAmI, request, timeout=_TIMEOUT_SECONDS, bearer=credential)
        except PermissionDenied as refusal:
            if refusal.reason != _NARROWED:
                raise

    async def for_api_key(self, api_key: str) -> Token:
        """See `Exchange.for_api_key`."""
        return await Doors(self._connection, timeout=_TIMEOUT_SECONDS).for_api_key(api_key)

    async def for_id_token(self, tenant: str, id_token: str) -> Token:
        """See `Exchange.for_id_token`."""
        return await Doors(self._connection, timeout=_TIMEOUT_SECONDS).for_id_token(tenant, id_token)

    async def aclose(self) -> None:
        """Closes the connection; another question opens it again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    @property
    def _connection(self) -> Connection:
        if self._opened is None:
            self._opened = Connection(self._url, NoCredentials(self._url))
        return self._opened


def _public(key: identity_service_pb2.GetKeySetResponse.Key) -> Ed25519PublicKey | None:
    """Reads a key; None for one that is of no use here."""
    if (key.kty, key.crv, key.use or "sig", key.alg or "EdDSA") != ("OKP", "Ed25519", "sig", "EdDSA") or not key.kid:
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(decoded(key.x))
    except (NotValid, ValueError):
        return None
