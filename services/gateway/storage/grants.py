"""Grants in Postgres."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.grant import Grant
from services.gateway.storage.one_trips import ADD_GRANT
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.sql.one_trip import one_trip


class SqlGrants:
    """Implements `usecases.ports.Grants`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, grant: Grant) -> UUID:
        """See `Grants.add`."""
        scopes = None if grant.scopes is None else sorted(grant.scopes)
        values = (grant.id, grant.tenant, grant.run, _key_of(grant), grant.subject, sorted(grant.roles))
        [row] = await one_trip(self._engine, grant.tenant, ADD_GRANT, *values, grant.project, scopes, grant.create_time)
        found: UUID = row["id"]
        return found


def _key_of(grant: Grant) -> UUID | None:
    key = grant.subject if grant.subject.startswith(f"{KEY_PREFIX}_") else grant.api_key
    return None if key is None else to_uuid(key, KEY_PREFIX)
