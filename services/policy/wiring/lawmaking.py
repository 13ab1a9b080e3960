"""Puts together what makes law: bundles, those that ship with the mesh, and the laws in force."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from comitia.policy.v1.policy_service_pb2_grpc import add_BundleServiceServicer_to_server
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.server import Registration
from services.policy.rules.shipped import load_shipped
from services.policy.storage.bundle_repository import BundleRepository
from services.policy.transport.bundle_servicer import BundleServicer
from services.policy.usecases.activate_bundle import ActivateBundle
from services.policy.usecases.create_bundle import CreateBundle
from services.policy.usecases.laws import Laws
from services.policy.usecases.read_bundles import ReadBundles
from services.policy.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Lawmaking:
    """What serves bundles. `laws` is background work, too."""

    registration: Registration
    laws: Laws


async def lawmaking(on: Ground) -> Lawmaking:
    """Builds it and looks once which laws are in force."""
    settings, clock = on.settings, on.clock
    shipped = await on.threads.run(load_shipped)
    bundles = BundleRepository(app=on.app, maintenance=on.maintenance, clock=clock)
    laws = Laws(
        store=bundles,
        shipped=shipped,
        wakes=on.wakes,
        clock=clock,
        off_loop=on.threads.run,
        poll_seconds=settings.law_poll_seconds,
        most_tenants=settings.max_known_tenants,
        most_bundles=settings.max_compiled_bundles,
    )
    with suppress(MeshError):  # without a database it starts too, and is not ready until it has looked
        await laws.look()
    activate = ActivateBundle(store=bundles, shipped=shipped, laws=laws, wakes=on.wakes)
    create = CreateBundle(
        store=bundles,
        shipped=shipped,
        activate=activate,
        parse_off_loop=on.threads.run,
        clock=clock,
        ids=on.ids,
        most_bundles=settings.max_bundles_per_tenant,
    )
    servicer = BundleServicer(create=create, activate=activate, read=ReadBundles(store=bundles, shipped=shipped))
    return Lawmaking(registration=partial(add_BundleServiceServicer_to_server, servicer), laws=laws)
