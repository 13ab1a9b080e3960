"""What every transaction of the gateway can do: answer a repeat, keep its answer, commit."""

from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope


class SqlWork:
    """Implements `usecases.ports.Work`. The rooms of the gateway add their repositories."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def claim_once(self) -> None:
        """See `Work.claim_once`."""
        await claim_once(self._scope)

    async def keep_once(self, made: object) -> None:
        """See `Work.keep_once`."""
        await keep_once(self._scope, made)

    async def commit(self) -> None:
        """See `Work.commit`."""
        await self._scope.commit()
