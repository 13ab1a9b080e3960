"""gRPC face of bundles."""

from typing import Any

from grpc.aio import ServicerContext

from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1.policy_service_pb2_grpc import BundleServiceServicer
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once
from services.policy.domain.bundle import Bundle
from services.policy.transport import convert
from services.policy.usecases.activate_bundle import ActivateBundle
from services.policy.usecases.create_bundle import CreateBundle
from services.policy.usecases.read_bundles import ReadBundles

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


def _created(bundle: Bundle) -> pb.CreateBundleResponse:
    return pb.CreateBundleResponse(bundle=convert.bundle_to_proto(bundle))


def _activated(bundle: Bundle) -> pb.ActivateBundleResponse:
    return pb.ActivateBundleResponse(bundle=convert.bundle_to_proto(bundle))


class BundleServicer(BundleServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(self, *, create: CreateBundle, activate: ActivateBundle, read: ReadBundles) -> None:
        self._create = create
        self._activate = activate
        self._read = read

    async def CreateBundle(self, request: pb.CreateBundleRequest, context: Context) -> pb.CreateBundleResponse:
        command = convert.to_create_command(request, caller_of(context).principal)
        return await once(request, lambda: self._create(command), _created, answers=pb.CreateBundleResponse)

    async def GetBundle(self, request: pb.GetBundleRequest, context: Context) -> pb.GetBundleResponse:
        name, version = convert.to_reference(request.bundle)
        bundle = await self._read.get(caller_of(context).principal.tenant, name, version)
        return pb.GetBundleResponse(bundle=convert.bundle_to_proto(bundle))

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Context) -> pb.ListBundlesResponse:
        size = clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, str, str)
        found = await self._read.page(caller_of(context).principal.tenant, after=after, most=size + 1)
        page, more = one_page(found, size, lambda bundle: (bundle.name, bundle.version))
        return pb.ListBundlesResponse(
            bundles=[convert.bundle_to_proto(bundle) for bundle in page], next_page_token=more
        )

    async def ActivateBundle(self, request: pb.ActivateBundleRequest, context: Context) -> pb.ActivateBundleResponse:
        name, version = convert.to_reference(request.bundle, versioned=True)
        principal = caller_of(context).principal
        return await once(
            request,
            lambda: self._activate(principal, name, version),
            _activated,
            answers=pb.ActivateBundleResponse,
        )
