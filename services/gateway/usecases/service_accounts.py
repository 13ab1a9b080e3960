"""Makes and disables service accounts."""

from uuid import UUID

from services.gateway.domain.service_account import AccountWish, ServiceAccount
from services.gateway.usecases.identity_ports import BeginIdentityWork
from services.gateway.usecases.revoke_api_key import FOR_GOOD, Changed
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import QuotaExceeded


class CreateServiceAccount:
    """Makes an account that may do no more than the caller. It has no key yet.

    Args:
        most: working accounts that a tenant may have.
    """

    def __init__(self, *, begin: BeginIdentityWork, clock: Clock, ids: IdSource, most: int) -> None:
        self._begin = begin
        self._clock = clock
        self._ids = ids
        self._most = most

    async def __call__(self, caller: Caller, wish: AccountWish) -> ServiceAccount:
        """Raises: Invalid, RoleNotHeld, QuotaExceeded; as `once`."""
        tenant = caller.principal.tenant
        wish = wish.checked(by=caller.principal)
        account = ServiceAccount(
            id=self._ids.uuid(),
            tenant=tenant,
            display_name=wish.display_name,
            roles=frozenset(wish.roles),
            project=wish.project,
            create_time=self._clock.now(),
        )
        async with self._begin(tenant) as work:
            await work.claim_once()
            used = await work.accounts.count(tenant)
            if used >= self._most:
                raise QuotaExceeded("max_service_accounts", limit=self._most, used=used)
            await work.accounts.add(account)
            note(target=account.subject, details={"roles": ", ".join(sorted(account.roles))})
            await work.keep_once(account)
            await work.commit()
        return account


class DisableServiceAccount:
    """Ends an account, all its keys and all tokens given for them; one that has ended stays as it is."""

    def __init__(self, *, begin: BeginIdentityWork, clock: Clock, changed: Changed) -> None:
        self._begin = begin
        self._clock = clock
        self._changed = changed

    async def __call__(self, caller: Caller, account_id: UUID) -> ServiceAccount:
        """Raises: NotFound; as `once`."""
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            await work.claim_once()
            found = await work.accounts.locked(tenant, account_id)
            note(target=found.subject)
            found.check_within(caller.principal)
            now = self._clock.now()
            account = found.disabled(now)
            if account != found:  # other services are told of what is written, changed or not
                await work.accounts.disable(account)
                for key in await work.keys.revoke_of(account, now):
                    await work.revocations.add(tenant, key.subject, now + FOR_GOOD)
                await work.revocations.add(tenant, account.subject, now + FOR_GOOD)
            await work.keep_once(account)
            await work.commit()
        self._changed(tenant)
        return account
