"""Puts together what tenants register: deployments, routes and rollouts, and how replicas come to know of them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random

from services.inference.domain.deployment import Deployments
from services.inference.domain.route import HopLimits
from services.inference.providers.catalogue import AdapterSpec, Catalogue, installed_adapters
from services.inference.providers.http import ProviderHttp
from services.inference.providers.opened import OpenedModels
from services.inference.settings import InferenceSettings
from services.inference.storage.lesson_records import SqlLessonRecords
from services.inference.storage.registry_feed import SqlRegistryFeed
from services.inference.storage.registry_file import RegistryFile
from services.inference.storage.registry_repository import RegistryRepository
from services.inference.storage.rollout_records import SqlRolloutRecords
from services.inference.transport.model_servicer import ModelServicer
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.check_models import CheckModels
from services.inference.usecases.embed import Embed
from services.inference.usecases.judge_rollouts import JudgeRollouts, RollBack
from services.inference.usecases.kept_registry import KeptRegistry
from services.inference.usecases.learn import LearnRoutes
from services.inference.usecases.list_models import ListModels
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.paces import Paces
from services.inference.usecases.ports import KnowsHealth, MakesCalls, PriceList
from services.inference.usecases.register_models import RegisterModels
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import BeginRegistryWork, RegistryWork
from services.inference.usecases.route_calls import RouteCalls
from services.inference.usecases.run_rollouts import RunRollouts
from services.inference.usecases.set_routes import SetRoutes
from services.inference.usecases.shadow import Shadows
from services.inference.wiring.providers import batchers, embedders, probers, providers
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.grpc.server import Background


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of models on this replica, and what keeps it so."""

    #: Those that ship, and those of packages that are installed beside them.
    adapters: Mapping[str, AdapterSpec]
    registry: MemoryRegistry
    router: RouteCalls
    models: OpenedModels
    repository: RegistryRepository
    begin: BeginRegistryWork
    news: RegistryNews
    rollouts: RunRollouts
    judge: JudgeRollouts
    #: None: nothing is kept for the next start.
    kept: KeptRegistry | None
    learn: LearnRoutes

    @property
    def background(self) -> tuple[Background, ...]:
        """What runs beside the server."""
        always = (self.news, self.judge, self.learn)
        return always if self.kept is None else (*always, self.kept)


def known_models(
    settings: InferenceSettings,
    *,
    deployments: Deployments,
    http: ProviderHttp,
    to_registered: ProviderHttp,
    repository: RegistryRepository,
    feed: SqlRegistryFeed,
    records: SqlRolloutRecords,
    wrapper: KeyWrapper,
    lessons: SqlLessonRecords,
    clock: Clock,
) -> Known:
    """Puts it together.

    Args:
        wrapper: seals what is kept for the next start.
        to_registered: what registered models are asked by.
    Raises: AdapterUnusable: one that the settings name is not installed, or one that is installed cannot be used.
    """
    adapters = installed_adapters()
    registry, observe = MemoryRegistry(deployments, clock=clock), ObserveRollouts()
    news = RegistryNews(feed, registry, observe, clock=clock)

    def begin(tenant: TenantId) -> AbstractAsyncContextManager[RegistryWork]:
        return news.changing(repository.begin(tenant))

    bandits = Bandits(dice=Random())
    rollouts = RunRollouts(begin=begin, installed=deployments, clock=clock)
    judge = JudgeRollouts(registry=registry, observe=observe, records=records, rollouts=rollouts, clock=clock)
    path = settings.registry_path
    file = None if path is None else RegistryFile(path, wrapper, clock=clock)
    return Known(
        adapters=adapters,
        registry=registry,
        router=RouteCalls(registry, observe, bandits=bandits, paces=Paces(clock=clock), hop=usual_hop(settings)),
        models=OpenedModels(
            providers(settings, http, adapters),
            embedders=embedders(settings, http),
            looked_at=probers(settings, http, adapters),
            adapters=adapters,
            http=to_registered,
            secrets=news.key,
            settled_batches=batchers(settings, http, adapters),
        ),
        repository=repository,
        begin=begin,
        news=news,
        rollouts=rollouts,
        judge=judge,
        kept=None if file is None else KeptRegistry(file, news, judge, clock=clock),
        learn=LearnRoutes(bandits, lessons, clock=clock),
    )


def usual_hop(settings: InferenceSettings) -> HopLimits:
    """Gives how long and how often a model is asked in a call whose route does not say."""
    return HopLimits(
        tries=settings.hop_tries,
        first_byte_seconds=settings.first_byte_seconds,
        between_seconds=settings.between_bytes_seconds,
    )


def model_servicer(
    settings: InferenceSettings,
    known: Known,
    *,
    deployments: Deployments,
    prices: PriceList,
    model_call: MakesCalls,
    embed: Embed,
    health: KnowsHealth,
    shadows: Shadows,
    replica: str,
    clock: Clock,
    ids: IdSource,
) -> ModelServicer:
    """Puts the face of ModelService together."""
    repository = known.repository
    register = RegisterModels(
        begin=known.begin, adapters=Catalogue(known.adapters), seals=repository, clock=clock, ids=ids
    )
    return ModelServicer(
        list_models=ListModels(deployments=deployments, registered=repository, prices=prices),
        register=register,
        check=CheckModels(register=register, model_call=model_call, embed=embed),
        set_routes=SetRoutes(begin=known.begin, installed=deployments),
        rollouts=known.rollouts,
        roll_back=RollBack(rollouts=known.rollouts, judge_rollouts=known.judge),
        learn=known.learn,
        shadows=shadows,
        registered=repository,
        registry=known.registry,
        health=health,
        replica=replica,
        hop=usual_hop(settings),
        clock=clock,
        ids=ids,
    )
