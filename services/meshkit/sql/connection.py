"""The connection that our pools are made of."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import asyncpg

#: Types below are the same in every Postgres; those above were made in one database.
_FIRST_MADE: Final = 10_000
#: What the driver wants to know of the statement that asked: one with a name took the place of no other.
_ASKED_BEFORE: Final = SimpleNamespace(name="asked before")


class PreambleConnection(asyncpg.Connection):  # type: ignore[type-arg]
    """A connection that sends statements of ours in the same message as BEGIN and as COMMIT.

    So a transaction with its tenant setting and its audit entry costs no round trip more than one without.
    """

    #: Sent once, right after the next BEGIN. Set by `scope.py` only, from UUIDs and constants.
    preamble: str = ""
    #: Sent once, right before the next COMMIT, which does not happen when it fails. Set by `scope.py` only.
    farewell: str = ""
    #: What any connection of this process was told of `uuid[]` and other arrays that every Postgres has.
    _arrays: ClassVar[dict[int, Any]] = {}

    async def execute(
        self,
        query: str,
        *args: object,
        timeout: float | None = None,
    ) -> str:
        """See `asyncpg.Connection.execute`."""
        if self.preamble and query.startswith("BEGIN"):
            query, self.preamble = f"{query.rstrip(';')};{self.preamble}", ""
        elif self.farewell and query.startswith("COMMIT"):
            return await self._commit(query)
        return await super().execute(query, *args, timeout=timeout)

    async def _commit(self, commit: str) -> str:
        farewell, self.farewell = self.farewell, ""
        try:
            return await super().execute(f"{farewell};{commit}")
        except asyncpg.PostgresError:
            # Nothing was committed; nobody above knows that the transaction is still there.
            if not self.is_closed() and self.is_in_transaction():
                await super().execute("ROLLBACK")
            raise

    async def _introspect_types(self, typeoids: Collection[int], timeout: float | None) -> tuple[list[Any], Any]:
        """Tells the driver what types are made of; it asks so on each connection that meets an array.

        Its statement takes the server 8 ms, more than all else about a new connection, and so the first call on each.
        """
        if all(oid in self._arrays for oid in typeoids):
            return [self._arrays[oid] for oid in typeoids], _ASKED_BEFORE
        asking: Any = super()  # the driver's own business, of which its types do not tell
        rows, statement = await asking._introspect_types(typeoids, timeout)
        self._arrays.update({row["oid"]: row for row in rows if row["elemtype"] and row["oid"] < _FIRST_MADE})
        return rows, statement
