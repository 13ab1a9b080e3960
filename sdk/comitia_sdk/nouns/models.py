"""Language and embedding models."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import (
    generation_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of

#: Longest wait for a model's answer, seconds.
_MODEL_TIMEOUT: Final = 300.0


class AsyncModels:
    """Language and embedding models, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models = model_service_pb2_grpc.ModelServiceStub(connection.channel)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(connection.channel)

    async def list(self) -> Sequence[model_pb2.ModelDeployment]:
        """Gives the models in the order in which the default chain asks them."""
        request = model_service_pb2.ListModelsRequest()
        return (await self._connection.call(self._models.ListModels, request)).models

    async def generate(self, prompt: str, *, model: str = "", max_output_tokens: int = 0) -> generation_pb2.Generation:
        """Asks a model and waits for the whole answer. Raises: PermissionDenied, LimitReached, FailedPrecondition."""
        request = inference_service_pb2.GenerateRequest(
            model=model, messages=[message(prompt)], max_output_tokens=max_output_tokens
        )
        answer = await self._connection.call(self._inference.Generate, request, timeout=_MODEL_TIMEOUT)
        return answer.generation

    async def stream(
        self, prompt: str | Sequence[content_pb2.Message], *, model: str = "", max_output_tokens: int = 0
    ) -> AsyncGenerator[inference_service_pb2.StreamGenerateResponse]:
        """Asks a model and gives its answer as it comes; the last message is the whole answer.

        Args:
            prompt: what to ask, or a talk so far.
        """
        messages = [message(prompt)] if isinstance(prompt, str) else prompt
        request = inference_service_pb2.StreamGenerateRequest(
            model=model, messages=messages, max_output_tokens=max_output_tokens
        )
        async for event in self._connection.stream(self._inference.StreamGenerate, request, timeout=_MODEL_TIMEOUT):
            yield event

    async def count_tokens(self, prompt: str, *, model: str = "") -> int:
        """Gives the most tokens that a prompt can count as; money is held for so many."""
        request = inference_service_pb2.CountTokensRequest(model=model, messages=[message(prompt)])
        return (await self._connection.call(self._inference.CountTokens, request)).input_tokens_bound

    async def embed(self, texts: Sequence[str], *, model: str = "") -> Sequence[Sequence[float]]:
        """Embeds texts as unit vectors."""
        request = inference_service_pb2.EmbedRequest(texts=texts, model=model)
        answer = await self._connection.call(self._inference.Embed, request, timeout=_MODEL_TIMEOUT)
        return [list(embedding.values) for embedding in answer.embeddings]

    async def register(
        self,
        name: str,
        *,
        adapter: str,
        model: str,
        base_url: str = "",
        api_key: str = "",
        provider: str = "",
        embeds: bool = False,
        form: str = "",
        says: model_pb2.ModelVersion | None = None,
    ) -> model_pb2.ModelDeployment:
        """Registers a model of the tenant's own; it is asked once `check` finds it ready.

        Args:
            adapter: who speaks to it, such as `openai`, `anthropic` or `openai_compatible`.
            api_key: key of the provider; kept sealed, and never shown again.
            provider: who is paid, as price lists know it; empty: whoever the adapter usually pays.
            embeds: True for a model that makes vectors instead of answers.
            form: `wire`, asked by the mesh itself, or `sdk`, by its provider's official client; empty: as usual.
            says: what else is to be known of it, such as its tier, region, window, capabilities and limits.
        Raises: InvalidRequest, AlreadyExists.
        """
        task = model_pb2.MODEL_TASK_EMBED if embeds else model_pb2.MODEL_TASK_GENERATE
        version = _version(says, adapter=adapter, model=model, base_url=base_url, provider=provider, form=form)
        request = model_service_pb2.CreateModelDeploymentRequest(name=name, task=task, version=version, api_key=api_key)
        return (await self._connection.call(self._models.CreateModelDeployment, request)).deployment

    async def add_version(
        self,
        deployment_id: str,
        *,
        adapter: str,
        model: str,
        base_url: str = "",
        api_key: str = "",
        provider: str = "",
        form: str = "",
        says: model_pb2.ModelVersion | None = None,
    ) -> model_pb2.ModelDeployment:
        """Adds a version. Without a key of its own it is asked with that of the version before.

        Raises: NotFound. InvalidRequest: another adapter or address (scheme, host, port) needs a key of its own.
        """
        version = _version(says, adapter=adapter, model=model, base_url=base_url, provider=provider, form=form)
        request = model_service_pb2.AddModelVersionRequest(
            deployment_id=deployment_id, version=version, api_key=api_key
        )
        return (await self._connection.call(self._models.AddModelVersion, request)).deployment

    async def check(self, deployment_id: str, version: int) -> model_pb2.ModelVersion:
        """Asks a version whether it is what it says it is, with one small call that is paid for. Raises: NotFound."""
        request = model_service_pb2.CheckModelVersionRequest(deployment_id=deployment_id, version=version)
        return (await self._connection.call(self._models.CheckModelVersion, request, timeout=_MODEL_TIMEOUT)).version

    async def get(self, deployment_id: str) -> model_pb2.ModelDeployment:
        """Fetches a registered model with all its versions. Raises: NotFound."""
        request = model_service_pb2.GetModelDeploymentRequest(deployment_id=deployment_id)
        return (await self._connection.call(self._models.GetModelDeployment, request)).deployment

    async def health(self) -> Sequence[model_pb2.ModelHealth]:
        """Says how the replica that answers finds each version of each model."""
        request = model_service_pb2.ListModelHealthRequest()
        return (await self._connection.call(self._models.ListModelHealth, request)).health

    async def retire(self, deployment_id: str) -> model_pb2.ModelDeployment:
        """Has a registered model asked no more. Raises: NotFound, Conflict (a rollout is running)."""
        request = model_service_pb2.RetireModelDeploymentRequest(deployment_id=deployment_id)
        return (await self._connection.call(self._models.RetireModelDeployment, request)).deployment

    async def set_route(
        self,
        name: str,
        members: Mapping[str, int] | Sequence[str],
        *,
        mode: str = "",
        sla_seconds: float = 0.0,
        min_tier: str = "",
        reward: model_pb2.RewardPolicy | None = None,
        policy: generation_pb2.CallPolicy | None = None,
        shadow: str = "",
        shadow_permille: int = 0,
        etag: str = "",
        cache_seconds: float = 0.0,
        semantic_threshold: float = 0.0,
    ) -> model_pb2.ModelRoute:
        """Makes a name to ask for, or replaces it.

        Args:
            members: names of models, asked in this order; or their weights by name, thousandths.
            mode: `chain`, `weighted`, `tiered`, `bandit_thompson` or `bandit_linucb`; empty: as the members say.
            sla_seconds: time in which an answer is to be whole, for the modes that choose by it; 0: any.
            min_tier: lowest tier that may answer: `bronze`, `silver` or `gold`; empty: any.
            reward: what a bandit goes by; None: as usual.
            policy: what calls do that do not say it themselves; None: as usual.
            shadow: model that is asked beside, to compare; empty: none.
            shadow_permille: its share of the calls, thousandths.
            etag: of the route that was read, to replace no other.
            cache_seconds: how long an answer is given to equal calls; 0: never.
            semantic_threshold: how near two questions have to be to share an answer, above 0.5 and up to 1; 0: never.
        Raises: InvalidRequest, NotFound (a member), Conflict.
        """
        weights = members if isinstance(members, Mapping) else dict.fromkeys(members, 0)
        chosen = mode or ("weighted" if isinstance(members, Mapping) else "chain")
        tier = number_of(model_pb2.ModelTier, min_tier, field="min_tier") if min_tier else 0
        route = model_pb2.ModelRoute(
            name=name,
            mode=model_pb2.RouteMode.ValueType(number_of(model_pb2.RouteMode, chosen, field="mode")),
            members=[model_pb2.RouteMember(deployment=one, weight_permille=weight) for one, weight in weights.items()],
            min_tier=model_pb2.ModelTier.ValueType(tier),
            reward=reward,
            policy=policy,
            shadow=model_pb2.ShadowPolicy(deployment=shadow, permille=shadow_permille) if shadow else None,
            etag=etag,
        )
        if sla_seconds:
            route.sla.FromMicroseconds(round(sla_seconds * 1_000_000))
        if cache_seconds or semantic_threshold:
            route.cache.exact_ttl.FromMicroseconds(round(cache_seconds * 1_000_000))
            route.cache.semantic_threshold = semantic_threshold
        request = model_service_pb2.SetModelRouteRequest(route=route)
        return (await self._connection.call(self._models.SetModelRoute, request)).route

    async def route(self, name: str) -> model_pb2.ModelRoute:
        """Fetches a route. Raises: NotFound."""
        request = model_service_pb2.GetModelRouteRequest(name=name)
        return (await self._connection.call(self._models.GetModelRoute, request)).route

    async def routes(self, *, page_size: int = 0) -> AsyncGenerator[model_pb2.ModelRoute]:
        """Gives all routes, by name."""
        request = model_service_pb2.ListModelRoutesRequest(page_size=page_size)
        async for page in self._connection.pages(self._models.ListModelRoutes, request):
            for route in page.routes:
                yield route

    async def delete_route(self, name: str) -> None:
        """Deletes a route; its models stay. Raises: NotFound, Conflict (a rollout is running)."""
        request = model_service_pb2.DeleteModelRouteRequest(name=name)
        await self._connection.call(self._models.DeleteModelRoute, request)

    async def comparison(self, name: str) -> Sequence[model_pb2.ModelComparison]:
        """Says how the answers of a route compare with those of its shadows, the newest first. Raises: NotFound."""
        request = model_service_pb2.GetModelComparisonRequest(name=name)
        return (await self._connection.call(self._models.GetModelComparison, request)).comparisons

    async def report_quality(self, hold_id: str, score: float) -> None:
        """Says how good an answer of a route with a bandit was, once, up to a day after it.

        Args:
            hold_id: of the answer.
            score: 0 to 1.
        Raises: InvalidRequest, NotFound, AlreadyExists.
        """
        request = model_service_pb2.ReportModelQualityRequest(hold_id=hold_id, score=score)
        await self._connection.call(self._models.ReportModelQuality, request)

    async def start_rollout(
        self,
        route: str,
        *,
        stable: str,
        canary: str,
        stable_version: int = 0,
        canary_version: int = 0,
        kind: str = "canary",
        steps_permille: Sequence[int] = (),
        quality_margin: float = 0.0,
    ) -> model_pb2.ModelRollout:
        """Gives a version a share of a route, under the eyes of a judge that takes it back when it does harm.

        Args:
            stable: name of the model that answers so far.
            canary: name of the model that is tried; it may be the same, in another version.
            stable_version: number of its version; 0: it is one of the settings.
            kind: `canary` grows by itself, `weighted` when it is promoted, `blue_green` takes over at once.
            steps_permille: the canary's share step by step, thousandths.
            quality_margin: by how much the canary's scores (`report_quality`) may be lower on average, 0 to 1. Above 0
                no step is taken before it is shown that they are not.
        Raises: InvalidRequest, NotFound, Conflict (one is running), FailedPrecondition (they do not fit).
        """
        rollout = model_pb2.ModelRollout(
            route=route,
            stable=model_pb2.ModelVersionRef(deployment=stable, version=stable_version),
            canary=model_pb2.ModelVersionRef(deployment=canary, version=canary_version),
            kind=model_pb2.RolloutKind.ValueType(number_of(model_pb2.RolloutKind, kind, field="kind")),
            steps_permille=steps_permille,
            quality_margin=quality_margin,
        )
        request = model_service_pb2.StartModelRolloutRequest(rollout=rollout)
        return (await self._connection.call(self._models.StartModelRollout, request)).rollout

    async def rollout(self, rollout_id: str) -> model_pb2.ModelRollout:
        """Fetches a rollout with what its judge has seen. Raises: NotFound."""
        request = model_service_pb2.GetModelRolloutRequest(rollout_id=rollout_id)
        return (await self._connection.call(self._models.GetModelRollout, request)).rollout

    async def rollouts(self, *, route: str = "", page_size: int = 0) -> AsyncGenerator[model_pb2.ModelRollout]:
        """Gives rollouts, newest first."""
        request = model_service_pb2.ListModelRolloutsRequest(route=route, page_size=page_size)
        async for page in self._connection.pages(self._models.ListModelRollouts, request):
            for rollout in page.rollouts:
                yield rollout

    async def promote(self, rollout_id: str) -> model_pb2.ModelRollout:
        """Takes the next step of a rollout; after the last one the canary answers all. Raises: NotFound."""
        request = model_service_pb2.PromoteModelRolloutRequest(rollout_id=rollout_id)
        return (await self._connection.call(self._models.PromoteModelRollout, request)).rollout

    async def roll_back(self, rollout_id: str) -> model_pb2.ModelRollout:
        """Takes a rollout back. Raises: NotFound, FailedPrecondition (it is promoted)."""
        request = model_service_pb2.RollBackModelRolloutRequest(rollout_id=rollout_id)
        return (await self._connection.call(self._models.RollBackModelRollout, request)).rollout


def message(
    text: str, *, role: content_pb2.MessageRole.ValueType = content_pb2.MESSAGE_ROLE_USER
) -> content_pb2.Message:
    """Makes a message of a talk."""
    return content_pb2.Message(role=role, parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))])


def _version(
    says: model_pb2.ModelVersion | None, *, adapter: str, model: str, base_url: str, provider: str, form: str
) -> model_pb2.ModelVersion:
    version = model_pb2.ModelVersion(adapter=adapter, model=model, base_url=base_url, provider=provider)
    if says is not None:
        version.MergeFrom(says)
    if form:
        version.form = model_pb2.AdapterForm.ValueType(number_of(model_pb2.AdapterForm, form, field="form"))
    return version
