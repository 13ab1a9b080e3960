"""Signatures over statements about runs: the gateway makes them, with the key whose public half outlives the run."""

from typing import Final

import grpc.aio

from comitia.gateway.v1 import audit_service_pb2, audit_service_pb2_grpc
from services.meshkit.core.identity import Caller
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

_SECONDS: Final = 5.0


class GatewayProvenanceSigner:
    """Implements `usecases.prove_run.ProvenanceSigner`."""

    def __init__(self, gateway: grpc.aio.Channel) -> None:
        self._audit = audit_service_pb2_grpc.AuditServiceStub(gateway)

    async def sign(self, caller: Caller, statement: bytes) -> tuple[str, str]:
        """See `ProvenanceSigner.sign`."""
        request = audit_service_pb2.SignProvenanceRequest(statement=statement)
        with remote_errors():
            answer = await self._audit.SignProvenance(
                request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
            )
        return answer.jws, answer.key_set
