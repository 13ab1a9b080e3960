"""Compiles large workflows on a thread before runs of them are begun, read or replayed: the loop would stand still."""

import asyncio
from contextlib import suppress
from typing import Final

from comitia.orchestrator.v1 import journal_pb2
from services.orchestrator.programs.run import PLANS

#: Bytes of a definition from which on a thread compiles it; those below take some milliseconds.
_LARGE: Final = 16 * 1024


async def prepare(started: journal_pb2.RunStarted) -> None:
    """Has the plan of a run at hand, if it is one that takes long to make."""
    if started.workflow.ByteSize() <= _LARGE:
        return
    # Whoever decides on the run meets the same, and says what is wrong with it.
    with suppress(Exception):
        await asyncio.to_thread(PLANS.of, started.workflow)
