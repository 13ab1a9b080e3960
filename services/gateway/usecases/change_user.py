"""Gives a user other roles, or removes one. Either way tokens from before are refused within seconds."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.gateway.domain.user import User, checked_roles
from services.gateway.domain.user_errors import LastAdmin
from services.gateway.usecases.people_ports import BeginPeopleWork, PeopleWork
from services.gateway.usecases.revoke_api_key import FOR_GOOD
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import NotFound
from services.meshkit.core.identity import Caller, Role


class SetUserRoles:
    """Gives a user roles that do no more than the caller may."""

    def __init__(self, *, begin: BeginPeopleWork, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock

    async def __call__(self, caller: Caller, user_id: UUID, roles: Sequence[Role]) -> User:
        """Raises: Invalid, NotFound (removed users too), RoleNotHeld, LastAdmin; as `once`."""
        by = caller.principal
        wanted = checked_roles(roles, by=by)
        async with self._begin(by.tenant) as work:
            await work.claim_once()
            user = await work.users.get(by.tenant, user_id)
            if not user.works:
                raise NotFound("user", user.subject)
            note(target=user.subject, details={"roles": ", ".join(sorted(wanted))})
            now = self._clock.now()
            changed = user.given(wanted, now)
            if changed != user:
                await _change(work, user, changed, now)
                # Tokens say since when their user has had the roles in them, so those of before are told by that.
                await work.revocations.add(by.tenant, user.subject, changed.roles_time)
            await work.keep_once(changed)
            await work.commit()
        return changed


class RemoveUser:
    """Ends a user; one who is removed stays so."""

    def __init__(self, *, begin: BeginPeopleWork, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock

    async def __call__(self, caller: Caller, user_id: UUID) -> User:
        """Raises: NotFound, LastAdmin; as `once`."""
        by = caller.principal
        async with self._begin(by.tenant) as work:
            await work.claim_once()
            user = await work.users.get(by.tenant, user_id)
            note(target=user.subject)
            now = self._clock.now()
            changed = user.removed(now)
            if changed != user:
                await _change(work, user, changed, now)
                # Ids of users never come back.
                await work.revocations.add(by.tenant, user.subject, now + FOR_GOOD)
            await work.keep_once(changed)
            await work.commit()
        return changed


async def _change(work: PeopleWork, user: User, changed: User, now: datetime) -> None:
    administers = changed.works and Role.ADMIN in changed.roles
    if Role.ADMIN in user.roles and not administers and not await work.administration.others_than(user, now=now):
        raise LastAdmin(user.email)
    await work.users.replace(changed)
