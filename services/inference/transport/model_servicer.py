"""The gRPC face of the models."""

from functools import partial
from typing import Any

from grpc.aio import ServicerContext

from comitia.inference.v1 import model_service_pb2 as pb
from comitia.inference.v1.model_service_pb2_grpc import ModelServiceServicer
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.route import HopLimits, Route
from services.inference.transport import model_convert as convert
from services.inference.usecases.check_models import CheckModels
from services.inference.usecases.judge_rollouts import RollBack
from services.inference.usecases.learn import LearnRoutes
from services.inference.usecases.list_models import ListModels
from services.inference.usecases.ports import KnowsHealth, Registry
from services.inference.usecases.register_models import RegisterModels
from services.inference.usecases.registry_ports import RegistryReader
from services.inference.usecases.run_rollouts import RunRollouts
from services.inference.usecases.set_routes import SetRoutes
from services.inference.usecases.shadow import Shadows
from services.meshkit.content.call import DIRECT, CallContext, CallId
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource, to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.grpc.call import caller_of, seconds_left
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC
#: Longest check, seconds.
_CHECK_SECONDS = 55.0


class ModelServicer(ModelServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        list_models: ListModels,
        register: RegisterModels,
        check: CheckModels,
        set_routes: SetRoutes,
        rollouts: RunRollouts,
        roll_back: RollBack,
        learn: LearnRoutes,
        shadows: Shadows,
        registered: RegistryReader,
        registry: Registry,
        health: KnowsHealth,
        replica: str,
        hop: HopLimits,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._list_models = list_models
        self._register = register
        self._check = check
        self._set_routes = set_routes
        self._rollouts = rollouts
        self._roll_back = roll_back
        self._learn = learn
        self._shadows = shadows
        self._registered = registered
        self._registry = registry
        self._health = health
        self._replica = replica
        self._hop = hop
        self._clock = clock
        self._ids = ids

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        installed, registered = await self._list_models(caller_of(context).principal)
        models = convert.deployments_to_proto(installed)
        models += [convert.listed_to_proto(one, priced=priced) for one, priced in registered]
        return pb.ListModelsResponse(models=models)

    async def CreateModelDeployment(
        self, request: pb.CreateModelDeploymentRequest, context: Context
    ) -> pb.CreateModelDeploymentResponse:
        tenant, task = caller_of(context).principal.tenant, convert.task_of(request.task)
        version, key = convert.version_of(request.version), Secret(request.api_key) if request.api_key else NO_SECRET
        return await once(
            request,
            lambda: self._register.create(tenant, request.name, task, version, key),
            _created,
            answers=pb.CreateModelDeploymentResponse,
        )

    async def GetModelDeployment(
        self, request: pb.GetModelDeploymentRequest, context: Context
    ) -> pb.GetModelDeploymentResponse:
        deployment, priced = await self._list_models.one(caller_of(context).principal, request.deployment_id)
        return pb.GetModelDeploymentResponse(deployment=convert.deployment_to_proto(deployment, priced=priced))

    async def AddModelVersion(self, request: pb.AddModelVersionRequest, context: Context) -> pb.AddModelVersionResponse:
        tenant, version = caller_of(context).principal.tenant, convert.version_of(request.version)
        key = Secret(request.api_key) if request.api_key else NO_SECRET
        return await once(
            request,
            lambda: self._register.add_version(tenant, request.deployment_id, version, key),
            _added,
            answers=pb.AddModelVersionResponse,
        )

    async def CheckModelVersion(
        self, request: pb.CheckModelVersionRequest, context: Context
    ) -> pb.CheckModelVersionResponse:
        principal = caller_of(context).principal
        whose = CallContext(
            call_id=CallId(run_id=self._ids.new(DIRECT), path="CheckModelVersion"), project=principal.project or ""
        )
        left = seconds_left()
        deadline = self._clock.monotonic() + min(_CHECK_SECONDS, _CHECK_SECONDS if left is None else left - 0.5)
        check = partial(self._check, principal, whose, request.deployment_id, request.version, deadline=deadline)
        return await once(request, check, _checked, answers=pb.CheckModelVersionResponse)

    async def RetireModelDeployment(
        self, request: pb.RetireModelDeploymentRequest, context: Context
    ) -> pb.RetireModelDeploymentResponse:
        tenant = caller_of(context).principal.tenant
        return await once(
            request,
            lambda: self._register.retire(tenant, request.deployment_id),
            _retired,
            answers=pb.RetireModelDeploymentResponse,
        )

    async def ListModelHealth(self, request: pb.ListModelHealthRequest, context: Context) -> pb.ListModelHealthResponse:
        tenant = caller_of(context).principal.tenant
        versions = self._registry.versions(tenant)
        found, now = self._health.health(versions, now=self._clock.monotonic()), self._clock.now()
        health = [convert.health_to_proto(one, replica=self._replica, now=now) for one in found]
        unreadable = self._registry.unreadable(tenant)
        return pb.ListModelHealthResponse(
            health=[*health, *(convert.unreadable_to_proto(name, replica=self._replica) for name in unreadable)]
        )

    async def SetModelRoute(self, request: pb.SetModelRouteRequest, context: Context) -> pb.SetModelRouteResponse:
        tenant = caller_of(context).principal.tenant
        route, seen = convert.route_of(request.route, usual=self._hop)
        return await once(
            request,
            lambda: self._set_routes.set(tenant, route, seen=seen),
            _set,
            answers=pb.SetModelRouteResponse,
        )

    async def GetModelRoute(self, request: pb.GetModelRouteRequest, context: Context) -> pb.GetModelRouteResponse:
        route = await self._registered.route(caller_of(context).principal.tenant, request.name)
        return pb.GetModelRouteResponse(route=convert.route_to_proto(route))

    async def ListModelRoutes(self, request: pb.ListModelRoutesRequest, context: Context) -> pb.ListModelRoutesResponse:
        size, after = clamp_page_size(request.page_size), decode_page_token(request.page_token, str)
        tenant = caller_of(context).principal.tenant
        found = await self._registered.routes(tenant, after=after[0] if after else "", most=size + 1)
        page, more = one_page(found, size, lambda route: (route.name,))
        return pb.ListModelRoutesResponse(routes=[convert.route_to_proto(one) for one in page], next_page_token=more)

    async def DeleteModelRoute(
        self, request: pb.DeleteModelRouteRequest, context: Context
    ) -> pb.DeleteModelRouteResponse:
        principal = caller_of(context).principal
        return await once(
            request,
            lambda: self._set_routes.delete(principal.tenant, request.name, by=principal.subject),
            _deleted,
            answers=pb.DeleteModelRouteResponse,
        )

    async def StartModelRollout(
        self, request: pb.StartModelRolloutRequest, context: Context
    ) -> pb.StartModelRolloutResponse:
        tenant = caller_of(context).principal.tenant
        rollout = convert.rollout_of(request.rollout, rollout_id=self._ids.new("rollout"), now=self._clock.now())
        return await once(
            request,
            lambda: self._rollouts.start(tenant, rollout),
            _started,
            answers=pb.StartModelRolloutResponse,
        )

    async def GetModelRollout(self, request: pb.GetModelRolloutRequest, context: Context) -> pb.GetModelRolloutResponse:
        rollout, seen = await self._registered.rollout(caller_of(context).principal.tenant, request.rollout_id)
        return pb.GetModelRolloutResponse(rollout=convert.rollout_to_proto(rollout, seen))

    async def ListModelRollouts(
        self, request: pb.ListModelRolloutsRequest, context: Context
    ) -> pb.ListModelRolloutsResponse:
        size, after = clamp_page_size(request.page_size), decode_page_token(request.page_token, str)
        before = to_uuid(after[0], "rollout", field="page_token") if after else None
        tenant = caller_of(context).principal.tenant
        found = await self._registered.rollouts(tenant, route=request.route, before=before, most=size + 1)
        page, more = one_page(found, size, lambda rollout: (rollout.id,))
        return pb.ListModelRolloutsResponse(
            rollouts=[convert.rollout_to_proto(one) for one in page], next_page_token=more
        )

    async def PromoteModelRollout(
        self, request: pb.PromoteModelRolloutRequest, context: Context
    ) -> pb.PromoteModelRolloutResponse:
        principal = caller_of(context).principal
        return await once(
            request,
            lambda: self._rollouts.promote(principal.tenant, request.rollout_id, by=principal.subject),
            _promoted,
            answers=pb.PromoteModelRolloutResponse,
        )

    async def RollBackModelRollout(
        self, request: pb.RollBackModelRolloutRequest, context: Context
    ) -> pb.RollBackModelRolloutResponse:
        principal = caller_of(context).principal
        return await once(
            request,
            lambda: self._roll_back(principal.tenant, request.rollout_id, by=principal.subject),
            _rolled_back,
            answers=pb.RollBackModelRolloutResponse,
        )

    async def GetModelComparison(
        self, request: pb.GetModelComparisonRequest, context: Context
    ) -> pb.GetModelComparisonResponse:
        tenant = caller_of(context).principal.tenant
        route = await self._registered.route(tenant, request.name)
        found = await self._shadows.compared(tenant, route.name)
        return pb.GetModelComparisonResponse(
            comparisons=[convert.comparison_to_proto(pair, one) for pair, one in found]
        )

    async def ReportModelQuality(
        self, request: pb.ReportModelQualityRequest, context: Context
    ) -> pb.ReportModelQualityResponse:
        principal = caller_of(context).principal
        return await once(
            request,
            lambda: self._learn.judge(principal, request.hold_id, request.score),
            _judged,
            answers=pb.ReportModelQualityResponse,
        )


def _created(deployment: RegisteredDeployment) -> pb.CreateModelDeploymentResponse:
    return pb.CreateModelDeploymentResponse(deployment=convert.deployment_to_proto(deployment))


def _added(deployment: RegisteredDeployment) -> pb.AddModelVersionResponse:
    return pb.AddModelVersionResponse(deployment=convert.deployment_to_proto(deployment))


def _checked(version: RegisteredVersion) -> pb.CheckModelVersionResponse:
    return pb.CheckModelVersionResponse(version=convert.version_to_proto(version))


def _retired(deployment: RegisteredDeployment) -> pb.RetireModelDeploymentResponse:
    return pb.RetireModelDeploymentResponse(deployment=convert.deployment_to_proto(deployment))


def _set(route: Route) -> pb.SetModelRouteResponse:
    return pb.SetModelRouteResponse(route=convert.route_to_proto(route))


def _deleted(nothing: None) -> pb.DeleteModelRouteResponse:
    return pb.DeleteModelRouteResponse()


def _started(rollout: Rollout) -> pb.StartModelRolloutResponse:
    return pb.StartModelRolloutResponse(rollout=convert.rollout_to_proto(rollout))


def _promoted(rollout: Rollout) -> pb.PromoteModelRolloutResponse:
    return pb.PromoteModelRolloutResponse(rollout=convert.rollout_to_proto(rollout))


def _rolled_back(rollout: Rollout) -> pb.RollBackModelRolloutResponse:
    return pb.RollBackModelRolloutResponse(rollout=convert.rollout_to_proto(rollout))


def _judged(nothing: None) -> pb.ReportModelQualityResponse:
    return pb.ReportModelQualityResponse()
