"""Invites a person."""

from collections.abc import Sequence

from services.gateway.domain.user import User, checked_roles, to_email
from services.gateway.usecases.people_ports import BeginPeopleWork
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Role
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import QuotaExceeded


class InviteUser:
    """Permits a person to sign in. Somebody who was removed becomes a new user.

    Args:
        most: users that a tenant may have who are not removed.
    """

    def __init__(self, *, begin: BeginPeopleWork, clock: Clock, ids: IdSource, most: int) -> None:
        self._begin = begin
        self._clock = clock
        self._ids = ids
        self._most = most

    async def __call__(self, caller: Caller, email: str, roles: Sequence[Role]) -> User:
        """Raises: Invalid, RoleNotHeld, AlreadyExists, QuotaExceeded; as `once`."""
        by = caller.principal
        now = self._clock.now()
        user = User(
            id=self._ids.uuid(),
            tenant=by.tenant,
            email=to_email(email),
            roles=checked_roles(roles, by=by),
            roles_time=now,
            create_time=now,
        )
        async with self._begin(by.tenant) as work:
            await work.claim_once()
            used = await work.users.count(by.tenant)
            if used >= self._most:
                raise QuotaExceeded("max_users", limit=self._most, used=used)
            await work.users.add(user)
            note(target=user.subject, details={"roles": ", ".join(sorted(user.roles))})
            await work.keep_once(user)
            await work.commit()
        return user
