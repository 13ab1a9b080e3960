"""Puts together the record of runs, and what keeps journals small: months, archive, deletion, swept blobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from comitia.orchestrator.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.guard.follow import SILENT_SECONDS
from services.orchestrator.clients.bundles import BundleCatalogue
from services.orchestrator.clients.embedder import MeshEmbedder
from services.orchestrator.clients.provenance_signer import GatewayProvenanceSigner
from services.orchestrator.programs.run import PROGRAMS
from services.orchestrator.storage.blob_sweep import SweepBlobs
from services.orchestrator.storage.journal_months import JournalMonths
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_deletions import SqlRunDeletions
from services.orchestrator.transport.convert import agent_to_proto
from services.orchestrator.transport.record_servicer import RecordServicer
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.delete_runs import DeleteRuns
from services.orchestrator.usecases.diff_runs import DiffRuns
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.fork_run import ForkRun
from services.orchestrator.usecases.prove_run import ProveRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.replay_run import ReplayRun
from services.orchestrator.usecases.retention import Retention
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.wiring.driving import Driving
from services.orchestrator.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What the record serves and does."""

    registration: Registration
    recorded: RecordedRuns
    background: Sequence[Background]


def keeping(ground: Ground, driving: Driving, *, access: RunAccess) -> Keeping:
    """Gives the record of runs and its upkeep."""
    settings, clock = ground.settings, ground.clock
    archive = SqlRunArchive(maintenance=ground.maintenance, keys=ground.sealed.keys, objects=driving.objects)
    retention = Retention(
        ground.guard.feed,
        clock=clock,
        keep=timedelta(days=settings.run_hot_days),
        silent_seconds=SILENT_SECONDS,
        own=settings.own_retentions,
    )
    recorded = RecordedRuns(records=SqlRecordStore(app=ground.app, codec=driving.codec, archive=archive), access=access)
    records = RecordServicer(
        replay_run=ReplayRun(runs=recorded, programs=PROGRAMS),
        fork_run=ForkRun(
            recorded=recorded,
            agents=driving.agents,
            agent_facts=agent_to_proto,
            neighbours=driving.preparation,
            runs=driving.engine,
            bundles=BundleCatalogue(ground.neighbours.policy),
            access=access,
            programs=PROGRAMS,
            clock=clock,
        ),
        diff_runs=DiffRuns(runs=recorded, embedder=MeshEmbedder(ground.neighbours.inference, ids=ground.ids)),
        export_run=ExportRun(runs=recorded),
        prove_run=ProveRun(runs=recorded, signer=GatewayProvenanceSigner(ground.neighbours.gateway)),
    )
    return Keeping(
        registration=partial(add_RecordServiceServicer_to_server, records),
        recorded=recorded,
        background=(
            JournalMonths(ground.maintenance, clock=clock),
            ArchiveRuns(
                archive=archive,
                runs=recorded,
                retention=retention,
                clock=clock,
                pause=timedelta(seconds=settings.run_archive_seconds),
            ),
            DeleteRuns(
                deletions=SqlRunDeletions(
                    app=ground.app, maintenance=ground.maintenance, codec=driving.codec, objects=driving.objects
                ),
                retention=retention,
                clock=clock,
                pause=timedelta(seconds=settings.run_delete_seconds),
            ),
            SweepBlobs(
                ground.maintenance,
                driving.objects,
                clock=clock,
                grace=timedelta(hours=settings.blob_grace_hours),
                pause=timedelta(seconds=settings.blob_sweep_seconds),
            ),
        ),
    )
