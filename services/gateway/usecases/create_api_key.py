"""Makes an API key."""

from dataclasses import dataclass

from services.gateway.domain.api_key import ApiKey, KeyWish
from services.gateway.usecases.ports import BeginWork, Randomness, Repeatable
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.key_secret import PresentedKey, SecretHash

SALT_BYTES = 16
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and, when it was made just now, its secret."""

    key: ApiKey
    presented: PresentedKey | None


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

    def store(self, tenant: TenantId, wish: KeyWish, presented: PresentedKey) -> ApiKey:
        """Gives what is stored of a key whose text exists already."""
        return ApiKey(
            id=presented.id,
            tenant=tenant,
            display_name=wish.display_name,
            roles=frozenset(wish.roles),
            project=wish.project,
            hash=SecretHash.of(presented.secret, salt=self._randomness(SALT_BYTES)),
            create_time=self._clock.now(),
            expire_time=wish.expire_time,
        )


class CreateApiKey:
    """Makes a key that may do no more than the caller. Its secret is in the first answer and nowhere else."""

    def __init__(self, *, begin: BeginWork, maker: KeyMaker, clock: Clock) -> None:
        self._begin = begin
        self._maker = maker
        self._clock = clock

    async def __call__(self, caller: Caller, wish: KeyWish, request: Repeatable | None) -> NewKey:
        """Raises: Invalid, RoleNotHeld, RequestIdReused."""
        tenant = caller.principal.tenant
        wish = wish.checked(by=caller.principal, now=self._clock.now())
        async with self._begin(tenant) as work:
            if request is not None:
                made = await work.requests.claim(tenant, request)
                if made is not None:
                    return NewKey(await work.keys.get(tenant, made), None)
            key, presented = self._maker.make(tenant, wish)
            await work.keys.add(key)
            await work.audit.add("api_key.created", key.subject, by=caller.principal.subject, tenant=tenant)
            if request is not None:
                await work.requests.keep(tenant, request, key.id)
            await work.commit()
        return NewKey(key, presented)
