"""Puts the face of ModelService together."""

from services.inference.domain.deployment import Deployments
from services.inference.providers.catalogue import Catalogue
from services.inference.transport.model_servicer import ModelServicer
from services.inference.usecases.check_models import CheckModels
from services.inference.usecases.judge_rollouts import RollBack
from services.inference.usecases.list_models import ListModels
from services.inference.usecases.register_models import RegisterModels
from services.inference.usecases.set_routes import SetRoutes
from services.inference.wiring.core import Core
from services.inference.wiring.ground import Ground
from services.inference.wiring.registry import Known, usual_hop
from services.inference.wiring.routing import comparing


def model_servicer(on: Ground, known: Known, *, deployments: Deployments, asking: Core) -> ModelServicer:
    """Makes it."""
    repository = known.repository
    register = RegisterModels(
        begin=known.begin, adapters=Catalogue(known.adapters), seals=repository, clock=on.clock, ids=on.ids
    )
    return ModelServicer(
        list_models=ListModels(deployments=deployments, registered=repository, prices=on.prices),
        register=register,
        check=CheckModels(register=register, model_call=asking.model_call, embed=asking.embed_anew),
        set_routes=SetRoutes(begin=known.begin, installed=deployments, compares=bool(comparing(deployments))),
        rollouts=known.rollouts,
        roll_back=RollBack(rollouts=known.rollouts, judge_rollouts=known.judge),
        learn=known.learn,
        shadows=asking.shadows,
        registered=repository,
        registry=known.registry,
        health=asking.health,
        replica=on.replica,
        hop=usual_hop(on.settings),
        clock=on.clock,
        ids=on.ids,
    )
