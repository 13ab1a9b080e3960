"""Exchanges a grant for an access token."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from services.gateway.domain.errors import GrantInvalid
from services.gateway.domain.grant import GRANT_PREFIX, RUN_PREFIX
from services.gateway.usecases.exchange_api_key import AccessToken
from services.gateway.usecases.ports import IdentityDirectory, TokenSigner
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.core.tenant import TenantState
from services.meshkit.guard.errors import TenantSuspended

#: Life of a token for a grant.
TOKEN_LIFE: Final = timedelta(minutes=10)


class ExchangeGrant:
    """Gives a run a token of minutes, after looking again at the grant and at whoever stands behind it."""

    def __init__(self, *, directory: IdentityDirectory, signer: TokenSigner, clock: Clock, ids: IdSource) -> None:
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._ids = ids

    async def __call__(self, grant_id: UUID, *, run: UUID, prefix: str = RUN_PREFIX) -> AccessToken:
        """Gives a token that names what the grant is for.

        Args:
            prefix: of the id that it names.
        Raises: GrantInvalid, TenantSuspended.
        """
        found = await self._directory.grant(grant_id)
        if found is None:
            raise GrantInvalid
        grant, standing, tenant = found
        now = self._clock.now()
        principal = grant.principal(standing, run=run, now=now, prefix=prefix)
        if tenant is not TenantState.ACTIVE:
            raise TenantSuspended
        ends = now + TOKEN_LIFE if standing.expire_time is None else min(now + TOKEN_LIFE, standing.expire_time)
        token = self._signer.sign(
            principal, life=ends - now, token_id=self._ids.uuid().hex, grant=from_uuid(GRANT_PREFIX, grant.id)
        )
        return AccessToken(token=token, expire_time=ends)
