"""Makes the tenant and the key that a fresh installation starts with."""

from services.gateway.domain.api_key import KeyWish
from services.gateway.domain.errors import BootstrapKeyDiffers
from services.gateway.domain.tenant import LOCAL, TENANT_PREFIX, Tenant
from services.gateway.usecases.create_api_key import KeyMaker
from services.gateway.usecases.ports import BeginWork, IdentityDirectory
from services.meshkit.core.audit import mesh_acts
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import AlreadyExists
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.core.key_secret import ApiKeyInvalid, PresentedKey

_WISH = KeyWish(display_name="bootstrap admin", roles=(Role.ADMIN, Role.OPERATOR), project=None, expire_time=None)


class EnsureBootstrap:
    """Stores the tenant `local` and the key of the bootstrap file unless they are there. Harmless to repeat."""

    def __init__(
        self, *, directory: IdentityDirectory, begin: BeginWork, maker: KeyMaker, clock: Clock, ids: IdSource
    ) -> None:
        self._directory = directory
        self._begin = begin
        self._maker = maker
        self._clock = clock
        self._ids = ids

    async def __call__(self, text: str) -> None:
        """Takes the text of the key file.

        A key that was revoked stays revoked, and one that was given a new secret keeps that.
        Raises: BootstrapKeyDiffers: the file and the database disagree.
        """
        try:
            presented = PresentedKey.parse(text.strip())
        except ApiKeyInvalid as error:
            raise BootstrapKeyDiffers("the bootstrap key file holds no key of the form ck_<id>_<secret>") from error
        found = await self._directory.key(presented.id)
        if found is None:
            tenant = await self._local()
            await self._store(tenant, presented)
            return
        stored, _ = found
        if stored.rotate_time is None and not stored.secrets.current.fits(presented.secret):
            raise BootstrapKeyDiffers(
                f"the bootstrap key file and the database hold different secrets for {stored.subject}; "
                "put the old file back, or use a file with a new key id"
            )

    async def _local(self) -> Tenant:
        found = await self._directory.tenant_named(LOCAL)
        if found is not None:
            return found
        tenant = Tenant(id=TenantId(self._ids.uuid()), name=LOCAL, create_time=self._clock.now())
        try:
            async with self._begin(tenant.id) as work:
                await work.tenants.add(tenant)
                with mesh_acts(
                    "gateway", tenant.id, action="tenants.write", target=from_uuid(TENANT_PREFIX, tenant.id)
                ):
                    await work.commit()
        except AlreadyExists:
            # Another replica was faster.
            found = await self._directory.tenant_named(LOCAL)
            if found is None:
                raise
            return found
        return tenant

    async def _store(self, tenant: Tenant, presented: PresentedKey) -> None:
        key = self._maker.store(tenant.id, _WISH, presented)
        try:
            async with self._begin(tenant.id) as work:
                await work.keys.add(key)
                with mesh_acts("gateway", tenant.id, action="api_keys.write", target=key.subject):
                    await work.commit()
        except AlreadyExists:
            # Another replica was faster; it read the same file.
            return
