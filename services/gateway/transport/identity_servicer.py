"""gRPC face of identities."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)
from services.gateway.domain.grant import GRANT_PREFIX, PREFIX_OF_PEER, RUN_PREFIX
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.transport import convert
from services.gateway.usecases.create_api_key import CreateApiKey
from services.gateway.usecases.exchange_api_key import ExchangeApiKey
from services.gateway.usecases.exchange_grant import ExchangeGrant
from services.gateway.usecases.identity_ports import ServiceAccountReader
from services.gateway.usecases.issue_grant import IssueGrant
from services.gateway.usecases.ports import ApiKeyReader
from services.gateway.usecases.revoke_api_key import RevokeApiKey
from services.gateway.usecases.rotate_api_key import RotateApiKey
from services.gateway.usecases.rotate_signing_key import RotateSigningKey
from services.gateway.usecases.service_accounts import CreateServiceAccount, DisableServiceAccount
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.core.paging import clamp_page_size, decode_id_place, one_page
from services.meshkit.grpc.call import caller_of, peer_of
from services.meshkit.grpc.once import once
from services.meshkit.grpc.server import Registration


class IdentityServicer(IdentityServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        exchange_api_key: ExchangeApiKey,
        create_api_key: CreateApiKey,
        revoke_api_key: RevokeApiKey,
        rotate_api_key: RotateApiKey,
        create_service_account: CreateServiceAccount,
        disable_service_account: DisableServiceAccount,
        rotate_signing_key: RotateSigningKey,
        issue_grant: IssueGrant,
        exchange_grant: ExchangeGrant,
        keys: ApiKeyReader,
        accounts: ServiceAccountReader,
        key_set: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self._exchange_api_key = exchange_api_key
        self._create_api_key = create_api_key
        self._revoke_api_key = revoke_api_key
        self._rotate_api_key = rotate_api_key
        self._create_service_account = create_service_account
        self._disable_service_account = disable_service_account
        self._rotate_signing_key = rotate_signing_key
        self._issue_grant = issue_grant
        self._exchange_grant = exchange_grant
        self._keys = keys
        self._accounts = accounts
        self._key_set = key_set

    async def ExchangeApiKey(self, request: pb.ExchangeApiKeyRequest, context: Any) -> pb.ExchangeApiKeyResponse:
        """See `identity_service.proto`, as the other methods."""
        token = await self._exchange_api_key(request.api_key)
        return pb.ExchangeApiKeyResponse(access_token=token.token, expire_time=convert.timestamp(token.expire_time))

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        principal = caller_of(context).principal
        return pb.WhoAmIResponse(
            tenant_id=from_uuid(TENANT_PREFIX, principal.tenant),
            subject=principal.subject,
            roles=convert.roles_to_proto(principal.roles),
            project=principal.project or "",
            email=principal.email or "",
        )

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        caller, wish = caller_of(context), convert.to_key_wish(request)
        return await once(
            request,
            lambda: self._create_api_key(caller, wish),
            lambda made: pb.CreateApiKeyResponse(api_key=convert.key_to_proto(made.key), secret=made.presented.text),
            keeps=lambda made: pb.CreateApiKeyResponse(api_key=convert.key_to_proto(made.key)),
            answers=pb.CreateApiKeyResponse,
        )

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        size = clamp_page_size(request.page_size)
        after = decode_id_place(request.page_token, KEY_PREFIX)
        by = caller_of(context).principal
        found = await self._keys.page(by.tenant, project=by.project, after=after, most=size + 1)
        page, more = one_page(found, size, lambda key: (key.subject,))
        return pb.ListApiKeysResponse(api_keys=[convert.key_to_proto(key) for key in page], next_page_token=more)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        caller, key_id = caller_of(context), to_uuid(request.api_key_id, KEY_PREFIX, field="api_key_id")
        return await once(
            request,
            lambda: self._revoke_api_key(caller, key_id),
            lambda key: pb.RevokeApiKeyResponse(api_key=convert.key_to_proto(key)),
            answers=pb.RevokeApiKeyResponse,
        )

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Any) -> pb.RotateApiKeyResponse:
        caller, key_id = caller_of(context), to_uuid(request.api_key_id, KEY_PREFIX, field="api_key_id")
        overlap = timedelta(seconds=request.overlap_seconds)
        return await once(
            request,
            lambda: self._rotate_api_key(caller, key_id, overlap=overlap),
            lambda made: pb.RotateApiKeyResponse(api_key=convert.key_to_proto(made.key), secret=made.presented.text),
            keeps=lambda made: pb.RotateApiKeyResponse(api_key=convert.key_to_proto(made.key)),
            answers=pb.RotateApiKeyResponse,
        )

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Any
    ) -> pb.CreateServiceAccountResponse:
        caller, wish = caller_of(context), convert.to_account_wish(request)
        return await once(
            request,
            lambda: self._create_service_account(caller, wish),
            lambda account: pb.CreateServiceAccountResponse(service_account=convert.account_to_proto(account)),
            answers=pb.CreateServiceAccountResponse,
        )

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Any
    ) -> pb.ListServiceAccountsResponse:
        size = clamp_page_size(request.page_size)
        after = decode_id_place(request.page_token, SERVICE_ACCOUNT_PREFIX)
        by = caller_of(context).principal
        found = await self._accounts.page(by.tenant, project=by.project, after=after, most=size + 1)
        page, more = one_page(found, size, lambda account: (account.subject,))
        return pb.ListServiceAccountsResponse(
            service_accounts=[convert.account_to_proto(account) for account in page], next_page_token=more
        )

    async def DisableServiceAccount(
        self, request: pb.DisableServiceAccountRequest, context: Any
    ) -> pb.DisableServiceAccountResponse:
        caller = caller_of(context)
        account_id = to_uuid(request.service_account_id, SERVICE_ACCOUNT_PREFIX, field="service_account_id")
        return await once(
            request,
            lambda: self._disable_service_account(caller, account_id),
            lambda account: pb.DisableServiceAccountResponse(service_account=convert.account_to_proto(account)),
            answers=pb.DisableServiceAccountResponse,
        )

    async def GetKeySet(self, request: pb.GetKeySetRequest, context: Any) -> pb.GetKeySetResponse:
        return convert.key_set_to_proto(self._key_set())

    async def RotateSigningKey(self, request: pb.RotateSigningKeyRequest, context: Any) -> pb.RotateSigningKeyResponse:
        caller = caller_of(context)
        return await once(
            request,
            lambda: self._rotate_signing_key(caller),
            lambda key: pb.RotateSigningKeyResponse(key_id=key.kid, sign_time=convert.timestamp(key.sign_time)),
            answers=pb.RotateSigningKeyResponse,
        )

    async def IssueGrant(self, request: pb.IssueGrantRequest, context: Any) -> pb.IssueGrantResponse:
        prefix = PREFIX_OF_PEER.get(peer_of(context), RUN_PREFIX)
        grant = await self._issue_grant(caller_of(context), to_uuid(request.run_id, prefix, field="run_id"))
        return pb.IssueGrantResponse(grant_id=from_uuid(GRANT_PREFIX, grant))

    async def ExchangeGrant(self, request: pb.ExchangeGrantRequest, context: Any) -> pb.ExchangeGrantResponse:
        prefix = PREFIX_OF_PEER.get(peer_of(context), RUN_PREFIX)
        token = await self._exchange_grant(
            to_uuid(request.grant_id, GRANT_PREFIX, field="grant_id"),
            run=to_uuid(request.run_id, prefix, field="run_id"),
            prefix=prefix,
        )
        return pb.ExchangeGrantResponse(access_token=token.token, expire_time=convert.timestamp(token.expire_time))


def registration(servicer: IdentityServicer) -> Registration:
    """Adds the servicer to a server."""
    return partial(add_IdentityServiceServicer_to_server, servicer)
