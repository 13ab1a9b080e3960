"""The record of runs: replayed, forked, compared, exported, proven."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, BinaryIO
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct

from comitia.orchestrator.v1 import record_pb2, record_service_pb2, record_service_pb2_grpc, run_pb2
from comitia_sdk.connection import Connection


class AsyncRecords:
    """The record of runs. A session is a run and shares its id."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = record_service_pb2_grpc.RecordServiceStub(connection.channel)

    async def replay(self, run_id: str) -> record_pb2.Replay:
        """Executes a run again from its journal and compares. Nobody is called, nothing changes. Raises: NotFound."""
        request = record_service_pb2.ReplayRunRequest(run_id=run_id)
        return (await self._connection.call(self._stub.ReplayRun, request, timeout=60.0)).replay

    async def fork(
        self,
        run_id: str,
        *,
        path: str = "",
        at_sequence: int = 0,
        topic: str = "",
        input: Mapping[str, Any] | None = None,
        model: str = "",
        agents: Sequence[record_service_pb2.AgentChange] = (),
        policy: str = "",
        real_effects: bool = False,
        max_cost_nano_usd: int = 0,
        request_id: str = "",
    ) -> run_pb2.Run:
        """Starts a run that shares its beginning with another one, and goes on with something changed.

        Args:
            path: step that is made anew, such as `rounds/2/Athena`; or
            at_sequence: fact up to which all is taken over. Neither: from the beginning.
            topic: what the agents of a session are asked instead.
            input: what a run of a workflow is given instead.
            model: for every agent in place of its own.
            agents: those to be changed: another version, other instructions, another model.
            policy: bundle of rules, `name@version`, that judges its models; the tenant's law when empty, which it may
                not be where answers of a fork under another policy are taken over.
            real_effects: True to call tools; else calls are answered from the record.
            max_cost_nano_usd: hard limit of the fork; 0 means that of the other run.
            request_id: UUID that makes a repeat harmless; a new one when empty.
        Raises: NotFound, InvalidRequest, FailedPrecondition, LimitReached.
        """
        given: Struct | None = None
        if input is not None:
            given = Struct()
            given.update(dict(input))
        request = record_service_pb2.ForkRunRequest(
            run_id=run_id,
            path=path,
            at_sequence=at_sequence,
            topic=topic,
            input=given,
            model=model,
            agents=agents,
            policy=policy,
            effects=record_service_pb2.FORK_EFFECTS_REAL if real_effects else record_service_pb2.FORK_EFFECTS_DRY,
            max_cost_nano_usd=max_cost_nano_usd,
            request_id=request_id or str(uuid4()),
        )
        return (await self._connection.call(self._stub.ForkRun, request)).run

    async def diff(self, run_id: str, other_run_id: str, *, by_meaning: bool = False) -> record_pb2.RunDifference:
        """Compares two runs step by step.

        Args:
            by_meaning: True to compare texts by meaning, too; asks the embedder.
        Raises: NotFound, FailedPrecondition.
        """
        request = record_service_pb2.DiffRunsRequest(run_id=run_id, other_run_id=other_run_id, by_meaning=by_meaning)
        return (await self._connection.call(self._stub.DiffRuns, request, timeout=60.0)).difference

    async def provenance(self, run_id: str) -> record_service_pb2.GetRunProvenanceResponse:
        """Gives the signed provenance of a run that has ended; `record.provenance.verify_provenance` checks it.

        Raises: NotFound, FailedPrecondition.
        """
        request = record_service_pb2.GetRunProvenanceRequest(run_id=run_id)
        return await self._connection.call(self._stub.GetRunProvenance, request, timeout=60.0)

    async def export(self, run_id: str) -> AsyncGenerator[bytes]:
        """Gives the file of a run in pieces. Raises: NotFound."""
        request = record_service_pb2.ExportRunRequest(run_id=run_id)
        async with aclosing(self._connection.stream(self._stub.ExportRun, request)) as pieces:
            async for piece in pieces:
                yield piece.data

    async def save(self, run_id: str, file: BinaryIO, *, told: Callable[[int], None] | None = None) -> int:
        """Writes a run as a file that `comitia replay` reads.

        Args:
            told: called now and then with the number of bytes so far.
        Returns: how many bytes were written.
        Raises: NotFound.
        """
        written = 0
        async with aclosing(self.export(run_id)) as pieces:
            async for piece in pieces:
                written += file.write(piece)
                if told is not None:
                    told(written)
        return written
