"""Stores a grant for a run."""

from typing import Final
from uuid import UUID

from services.gateway.domain.errors import GrantNeedsKey
from services.gateway.domain.grant import Grant
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX
from services.gateway.domain.user import USER_PREFIX
from services.gateway.usecases.ports import Grants
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource, to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX

#: Of subjects that a grant can stand on: they are looked up again whenever it is exchanged.
_STANDING: Final = (KEY_PREFIX, SERVICE_ACCOUNT_PREFIX, USER_PREFIX)


class IssueGrant:
    """Lets a run go on as its caller after the call has ended. One grant per run; a repeat gives the same."""

    def __init__(self, *, grants: Grants, clock: Clock, ids: IdSource) -> None:
        self._grants = grants
        self._clock = clock
        self._ids = ids

    async def __call__(self, caller: Caller, run: UUID) -> UUID:
        """Gives the id of the grant. Raises: GrantNeedsKey."""
        principal = caller.principal
        if not _can_be_looked_up(principal.subject):
            raise GrantNeedsKey(principal.subject)
        grant = Grant(
            id=self._ids.uuid(),
            tenant=principal.tenant,
            run=run,
            subject=principal.subject,
            api_key=principal.api_key,
            roles=principal.roles,
            project=principal.project,
            scopes=principal.scopes,
            create_time=self._clock.now(),
        )
        return await self._grants.add(grant)


def _can_be_looked_up(subject: str) -> bool:
    prefix = subject.partition("_")[0]
    try:
        to_uuid(subject, prefix)
    except Invalid:
        return False
    return prefix in _STANDING
