"""Puts together what tenants register: deployments, routes and rollouts, and how replicas come to know of them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random

from services.inference.domain.deployment import Deployments
from services.inference.domain.route import HopLimits
from services.inference.providers.catalogue import AdapterSpec, installed_adapters
from services.inference.providers.opened import OpenedModels
from services.inference.settings import InferenceSettings
from services.inference.storage.lesson_records import SqlLessonRecords
from services.inference.storage.registry_feed import SqlRegistryFeed
from services.inference.storage.registry_file import RegistryFile
from services.inference.storage.registry_repository import RegistryRepository
from services.inference.storage.rollout_records import SqlRolloutRecords
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.judge_rollouts import JudgeRollouts
from services.inference.usecases.kept_registry import KeptRegistry
from services.inference.usecases.learn import LearnRoutes
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.paces import Paces
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import BeginRegistryWork, RegistryWork
from services.inference.usecases.route_calls import RouteCalls
from services.inference.usecases.run_rollouts import RunRollouts
from services.inference.wiring.ground import Ground
from services.inference.wiring.providers import batchers, embedders, probers, providers
from services.meshkit.core.identity import TenantId
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


def known_models(on: Ground, *, deployments: Deployments) -> Known:
    """Puts it together.

    Raises: AdapterUnusable: one that the settings name is not installed, or one that is installed cannot be used.
    """
    settings, clock, adapters = on.settings, on.clock, installed_adapters()
    repository = RegistryRepository(on.app, keys=on.sealed.keys)
    registry, observe = MemoryRegistry(deployments, clock=clock), ObserveRollouts()
    news = RegistryNews(SqlRegistryFeed(on.maintenance, keys=on.sealed.keys), registry, observe, clock=clock)

    def begin(tenant: TenantId) -> AbstractAsyncContextManager[RegistryWork]:
        return news.changing(repository.begin(tenant))

    bandits, given = Bandits(dice=Random()), GivenAnswers()
    rollouts = RunRollouts(begin=begin, installed=deployments, clock=clock)
    records = SqlRolloutRecords(on.app, on.maintenance, replica=on.replica, clock=clock)
    judge = JudgeRollouts(registry=registry, observe=observe, records=records, rollouts=rollouts, clock=clock)
    path = settings.registry_path
    file = None if path is None else RegistryFile(path, on.sealed.wrapper, clock=clock)
    return Known(
        adapters=adapters,
        registry=registry,
        router=RouteCalls(
            registry, observe, bandits=bandits, given=given, paces=Paces(clock=clock), hop=usual_hop(settings)
        ),
        models=_opened(on, adapters, news),
        repository=repository,
        begin=begin,
        news=news,
        rollouts=rollouts,
        judge=judge,
        kept=None if file is None else KeptRegistry(file, news, judge, clock=clock),
        learn=LearnRoutes(bandits, given, SqlLessonRecords(on.app, on.maintenance), clock=clock),
    )


def _opened(on: Ground, adapters: Mapping[str, AdapterSpec], news: RegistryNews) -> OpenedModels:
    settings, http = on.settings, on.http
    return OpenedModels(
        providers(settings, http, adapters),
        embedders=embedders(settings, http),
        looked_at=probers(settings, http, adapters),
        adapters=adapters,
        http=on.to_registered,
        secrets=news.key,
        settled_batches=batchers(settings, http, adapters),
    )


def usual_hop(settings: InferenceSettings) -> HopLimits:
    """Gives how long and how often a model is asked in a call whose route does not say."""
    return HopLimits(
        tries=settings.hop_tries,
        first_byte_seconds=settings.first_byte_seconds,
        between_seconds=settings.between_bytes_seconds,
    )
