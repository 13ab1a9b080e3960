"""The connection that our pools are made of."""

import asyncpg


class PreambleConnection(asyncpg.Connection):  # type: ignore[type-arg]
    """A connection that sends statements of ours in the same message as BEGIN and as COMMIT.

    So a transaction with its tenant setting and its audit entry costs no round trip more than one without.
    """

    #: Sent once, right after the next BEGIN. Set by `scope.py` only, from UUIDs and constants.
    preamble: str = ""
    #: Sent once, right before the next COMMIT, which does not happen when it fails. Set by `scope.py` only.
    farewell: str = ""

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
