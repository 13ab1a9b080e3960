"""A tenant: a customer whose data, money and rules stand apart from everyone else's."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId

TENANT_PREFIX: Final = "tenant"
#: Tenant of a fresh installation.
LOCAL: Final = "local"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant of the installation."""

    id: TenantId
    #: Unique in the installation.
    name: str
    create_time: datetime
    #: Region its content must stay in; empty means no rule.
    residency_region: str = ""

    def checked(self) -> "Tenant":
        """Returns the tenant. Raises: Invalid."""
        if _NAME.fullmatch(self.name) is None:
            raise Invalid("name", "must be 1 to 63 lower-case letters, digits and `-`, and not begin or end with `-`")
        if self.residency_region and _REGION.fullmatch(self.residency_region) is None:
            raise Invalid("residency_region", "must be a region such as `eu`: lower-case letters, digits and `-`")
        return self
