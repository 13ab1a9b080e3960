"""The identities that the items of one batch stream speak for."""

from typing import Final

from comitia.common.v1.batch_pb2 import IdentityTable
from services.meshkit.core.errors import Exhausted, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.guard import Admission, check_permission
from services.meshkit.grpc.identity import TokenExpired, TokenMissing, VerifiedToken

#: Most tokens that one stream may name; a client that needs more opens another.
MAX_IDENTITIES: Final = 256


class TooManyIdentities(Exhausted):
    """The stream names more tokens than it may. Open another stream."""

    reason = "TOO_MANY_IDENTITIES"


class StreamIdentities:
    """Verifies the tokens of a stream as they come and gives the principal of each item.

    A token that is refused fails the items that name it, and no other.
    """

    def __init__(self, admission: Admission, *, method: str) -> None:
        self._admission = admission
        self._guard = admission.guard(method)
        self._known: list[VerifiedToken | MeshError] = []

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
            TenantSuspended: since it came.
        """
        if index >= len(self._known):
            raise TokenMissing("the stream has not named the identity of this item", identity_index=index)
        known = self._known[index]
        if isinstance(known, MeshError):
            raise known
        if now >= known.expires:
            raise TokenExpired("the token has expired; get a new one")
        self._admission.check(known)
        return known.principal

    def _verified(self, token: str) -> VerifiedToken | MeshError:
        try:
            verified = self._admission.verify(token)
            check_permission(verified.principal, self._guard)
        except MeshError as error:
            return error
        return verified
