"""Registers a version of a tool."""

from services.meshkit.core.audit import note
from services.meshkit.core.identity import TenantId
from services.tools.domain.tool import Tool
from services.tools.usecases.catalogue import Catalogue


class RegisterTool:
    """Checks a definition and stores it. The same one again answers with the version that exists."""

    def __init__(self, *, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def __call__(self, tenant: TenantId, tool: Tool) -> Tool:
        """Gives the version as stored. Raises: Invalid, SchemaInvalid, ToolVersionExists, TooManyTools."""
        checked = tool.checked()
        note(target=checked.reference, details={"digest": checked.digest.hex(), "mode": checked.mode.value})
        return await self._catalogue.add(tenant, checked)
