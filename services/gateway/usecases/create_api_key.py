"""Makes an API key."""

from dataclasses import dataclass
from uuid import UUID

from services.gateway.domain.api_key import ApiKey, KeyWish
from services.gateway.usecases.identity_ports import BeginIdentityWork, IdentityWork
from services.gateway.usecases.ports import Randomness
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.key_secret import KeySecrets, PresentedKey, SecretHash
from services.meshkit.core.tenant import QuotaExceeded

SALT_BYTES = 16
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its new secret."""

    key: ApiKey
    presented: PresentedKey


class KeyMaker:
    """Makes keys with fresh secrets."""

    def __init__(self, *, clock: Clock, ids: IdSource, randomness: Randomness) -> None:
        self._clock = clock
        self._ids = ids
        self._randomness = randomness

    def make(self, tenant: TenantId, wish: KeyWish) -> tuple[ApiKey, PresentedKey]:
        """Makes a key as wished; checks nothing."""
        presented = PresentedKey(self._ids.uuid(), self._randomness(SECRET_BYTES).hex())
        return self.store(tenant, wish, presented), presented

    def secret(self, key: UUID) -> tuple[PresentedKey, SecretHash]:
        """Makes a new secret for a key that exists."""
        presented = PresentedKey(key, self._randomness(SECRET_BYTES).hex())
        return presented, SecretHash.of(presented.secret, salt=self._randomness(SALT_BYTES))

    def store(self, tenant: TenantId, wish: KeyWish, presented: PresentedKey) -> ApiKey:
        """Gives what is stored of a key whose text exists already."""
        return ApiKey(
            id=presented.id,
            tenant=tenant,
            display_name=wish.display_name,
            roles=frozenset(wish.roles),
            project=wish.project,
            scopes=frozenset(wish.scopes) or None,
            service_account=wish.service_account,
            secrets=KeySecrets(SecretHash.of(presented.secret, salt=self._randomness(SALT_BYTES))),
            create_time=self._clock.now(),
            expire_time=wish.expire_time,
        )


class CreateApiKey:
    """Makes a key that may do no more than the caller. Its secret is in the first answer and nowhere else.

    Args:
        most: working keys that a tenant may have.
    """

    def __init__(self, *, begin: BeginIdentityWork, maker: KeyMaker, clock: Clock, most: int) -> None:
        self._begin = begin
        self._maker = maker
        self._clock = clock
        self._most = most

    async def __call__(self, caller: Caller, wish: KeyWish) -> NewKey:
        """Raises: Invalid, RoleNotHeld, NotFound, ServiceAccountDisabled, QuotaExceeded; as `once`."""
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            await work.claim_once()
            wish = await self._allowed(work, wish, by=caller.principal)
            used = await work.keys.count(tenant, self._clock.now())
            if used >= self._most:
                raise QuotaExceeded("max_api_keys", limit=self._most, used=used)
            key, presented = self._maker.make(tenant, wish)
            await work.keys.add(key)
            note(target=key.subject, details=_facts(key))
            made = NewKey(key, presented)
            await work.keep_once(made)
            await work.commit()
        return made

    async def _allowed(self, work: IdentityWork, wish: KeyWish, *, by: Principal) -> KeyWish:
        if wish.service_account is not None:
            account = await work.accounts.get(by.tenant, wish.service_account)
            wish = wish.of(account, by=by)
        return wish.checked(by=by, now=self._clock.now())


def _facts(key: ApiKey) -> dict[str, object]:
    """What the audit trail tells of a new key, beside its id."""
    facts: dict[str, object] = {"roles": ", ".join(sorted(key.roles))}
    if key.project is not None:
        facts["project"] = key.project
    if key.expire_time is not None:
        facts["expire_time"] = key.expire_time.isoformat()
    return facts
