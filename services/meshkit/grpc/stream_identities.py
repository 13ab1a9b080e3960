"""The identities that the items of one batch stream speak for."""

from typing import Final

from comitia.common.v1.batch_pb2 import IdentityTable
from services.meshkit.core.errors import Exhausted, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.client_address import Connection
from services.meshkit.grpc.guard import Admission, Admitted
from services.meshkit.grpc.identity import TokenExpired, TokenMissing, VerifiedToken

#: Most tokens that one stream may name; a client that needs more opens another.
MAX_IDENTITIES: Final = 256


#: What a token proves and who its items are, or why they are refused.
_Known = tuple[VerifiedToken, Admitted] | MeshError


class TooManyIdentities(Exhausted):
    """The stream names more tokens than it may. Open another stream."""

    reason = "TOO_MANY_IDENTITIES"


class StreamIdentities:
    """Verifies the tokens of a stream as they come and gives the principal of each item.

    A token that is refused fails the items that name it, and no other.

    Args:
        peer: service that opened the stream; None for a caller from outside, whose items are held against the rules
            for callers from outside one by one.
        connection: tells where the stream comes from.
    """

    def __init__(
        self, admission: Admission, *, method: str, peer: str | None = None, connection: Connection | None = None
    ) -> None:
        self._admission = admission
        self._method = method
        self._peer = peer
        self._connection = connection
        self._known: list[_Known] = []

    def extend(self, table: IdentityTable) -> None:
        """Appends the tokens of a frame.

        Raises: TooManyIdentities: the stream is at fault and ends.
        """
        if len(self._known) + len(table.access_tokens) > MAX_IDENTITIES:
            raise TooManyIdentities(f"a stream may name at most {MAX_IDENTITIES} tokens", most=MAX_IDENTITIES)
        self._known.extend(self._verified(token) for token in table.access_tokens)

    def principal(self, index: int, *, now: float) -> Principal:
        """Gives who the item with this identity index speaks for.

        Args:
            now: Unix time, seconds; a token that was good when it came may have expired since.
        Raises: what the token was refused for; TokenMissing: no such index; TokenExpired, TokenRevoked,
            TenantSuspended, NetworkNotAllowed: since it came.
        """
        if index >= len(self._known):
            raise TokenMissing("the stream has not named the identity of this item", identity_index=index)
        known = self._known[index]
        if isinstance(known, MeshError):
            raise known
        verified, admitted = known
        if now >= verified.expires:
            raise TokenExpired("the token has expired; get a new one")
        self._admission.check(verified)
        self._admission.check_origin(admitted, self._connection)
        return verified.principal

    def _verified(self, token: str) -> _Known:
        try:
            # Whether it still holds is asked for each item: a tenant that is suspended now may be resumed later.
            verified = self._admission.proven(token)
            admitted = Admitted(principal=verified.principal, peer=self._peer, verified=verified)
            self._admission.permit(self._method, admitted)
        except MeshError as error:
            return error
        return verified, admitted
