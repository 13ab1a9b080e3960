"""What the care of tenants refuses."""

from services.gateway.domain.tenant import TENANT_PREFIX
from services.meshkit.core.errors import Precondition
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid


class TenantEnded(Precondition):
    """The tenant is being erased or is erased, and there is no way back. Make a new one."""

    reason = "TENANT_ENDED"

    def __init__(self, tenant: TenantId) -> None:
        name = from_uuid(TENANT_PREFIX, tenant)
        super().__init__(f"{name} is deleted, and there is no way back; make a new tenant", tenant_id=name)


class OwnTenant(Precondition):
    """Operators do not suspend or delete the tenant that they are of: nobody could take it back."""

    reason = "OWN_TENANT"

    def __init__(self) -> None:
        super().__init__("this is your own tenant; an operator of another tenant has to do it")


class LockedOut(Precondition):
    """With these rules the caller itself would be locked out. Add the caller's network, or call from an allowed one."""

    reason = "LOCKED_OUT"

    def __init__(self, address: str) -> None:
        super().__init__(
            f"allowed_networks would lock you out: your own address {address} is in none of them; add its network",
            address=address,
        )
