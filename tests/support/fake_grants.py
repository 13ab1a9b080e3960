"""The gateway as a batch needs it: gives grants, and tokens for them while whoever stands behind them works."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceServicer, add_IdentityServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.meshkit.core.errors import Unauthenticated
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.server import Server, serve
from services.meshkit.testing.mesh_keys import MeshKeys


class GrantInvalid(Unauthenticated):
    """Whoever stands behind the grant works no longer."""

    reason = "GRANT_INVALID"

    def __init__(self) -> None:
        super().__init__("the grant is not valid")


class FakeGrants(IdentityServiceServicer):
    """Remembers its grants, and forgets those that are revoked."""

    def __init__(self, keys: MeshKeys) -> None:
        self.target = ""
        self._keys = keys
        self._ids = SystemIds()
        self._grants: dict[str, tuple[str, Principal]] = {}

    def revoke_all(self) -> None:
        self._grants.clear()

    async def IssueGrant(self, request: pb.IssueGrantRequest, context: Any) -> pb.IssueGrantResponse:
        grant = self._ids.new("grant")
        self._grants[grant] = (request.run_id, caller_of(context).principal)
        return pb.IssueGrantResponse(grant_id=grant)

    async def ExchangeGrant(self, request: pb.ExchangeGrantRequest, context: Any) -> pb.ExchangeGrantResponse:
        run, principal = self._grants.get(request.grant_id, ("", None))
        if principal is None or run != request.run_id:
            raise GrantInvalid
        token = self._keys.principal(tenant=principal.tenant, subject=principal.subject, run_id=run).token
        expires = Timestamp()
        # Used up at once: each look at a batch asks again whether its caller may still work.
        expires.FromDatetime(self._keys.clock.now())
        return pb.ExchangeGrantResponse(access_token=token.reveal(), expire_time=expires)


@asynccontextmanager
async def fake_grants(keys: MeshKeys) -> AsyncGenerator[FakeGrants]:
    """Serves while the block runs."""
    grants = FakeGrants(keys)  # pyright: ignore[reportAbstractUsage]  # what nobody asks answers UNIMPLEMENTED
    server = Server(
        name="gateway",
        listen="127.0.0.1:0",
        registrations=(partial(add_IdentityServiceServicer_to_server, grants),),
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
    )
    async with serve(server) as running:
        grants.target = f"127.0.0.1:{running.port}"
        yield grants
