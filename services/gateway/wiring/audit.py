"""Puts the audit trail of the gateway together; a part of `wiring.py`."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from services.gateway.clients.audit_feed import IDEMPOTENT, GrpcAuditFeed
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.heads.head_directory import HeadDirectory
from services.gateway.heads.head_signer import Ed25519HeadSigner
from services.gateway.settings import GatewaySettings
from services.gateway.storage.audit_intake import SqlAuditIntake
from services.gateway.storage.audit_trails import SqlAuditTrails
from services.gateway.transport.audit_servicer import AuditServicer
from services.gateway.usecases.acknowledge_gap import AcknowledgeGap
from services.gateway.usecases.archive_audit import ArchiveAudit
from services.gateway.usecases.audit_ports import AuditReader, BeginGapWork, HeadStore
from services.gateway.usecases.audit_rounds import Rounds
from services.gateway.usecases.audit_status import AuditStatus
from services.gateway.usecases.check_audit import CheckHeads, ReadThrough
from services.gateway.usecases.collect_audit import CollectAudit
from services.gateway.usecases.prove_audit import ProveConsistency, ProveEntry
from services.gateway.usecases.read_audit import ExportAudit, ReadAudit
from services.gateway.usecases.seal_audit import CheckAgainstHead, LastHeads, SealAudit
from services.gateway.usecases.sign_provenance import SignProvenance
from services.meshkit.core.clock import Clock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.engine import sql_engine


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTrail:
    """What the gateway serves and does about the audit trail."""

    registration: Registration
    background: tuple[Background, ...]


@asynccontextmanager
async def audit_trail(
    settings: GatewaySettings,
    *,
    reader: AuditReader,
    begin_gap: BeginGapWork,
    workload: WorkloadSigner,
    clock: Clock,
) -> AsyncGenerator[AuditTrail]:
    """Gives the audit trail.

    Args:
        reader: as role `app`, like `begin_gap`. For work over all tenants connections of its own are opened, so that
            nobody who asks for an identity waits behind it.
    Raises: KeyUnreadable, HeadMalformed: the audit key or key set cannot be read.
    """
    signer = Ed25519HeadSigner.read(settings.audit_key_path, settings.audit_jwks_path, clock=clock)
    store, health = head_store(settings.audit_store), AuditHealth()
    async with AsyncExitStack() as stack:
        maintenance = await stack.enter_async_context(
            sql_engine(
                settings.maintenance_database_url.get_secret_value(), pool_size=3, application_name="gateway-audit"
            )
        )
        trails = SqlAuditTrails(maintenance)
        check = CheckAgainstHead(reader=reader, health=health)
        last = LastHeads(store=store, reader=reader, signer=signer)
        seal = SealAudit(trails=trails, check=check, last=last, store=store, signer=signer, health=health)
        compare = CheckHeads(store=store, trails=trails, seal=seal, health=health)
        collect = CollectAudit(
            await _feeds(stack, settings, workload), intake=SqlAuditIntake(maintenance), health=health, clock=clock
        )
        archive = ArchiveAudit(trails=trails, store=store, clock=clock, keep=timedelta(days=settings.audit_hot_days))
        read_through = ReadThrough(trails=trails, reader=reader, health=health, clock=clock)
        read = ReadAudit(reader=reader, store=store)
        servicer = AuditServicer(
            reader=reader,
            export=ExportAudit(read=read, reader=reader, seal=seal, signer=signer),
            prove_entry=ProveEntry(reader=reader, read=read),
            prove_consistency=ProveConsistency(reader=reader),
            status=AuditStatus(reader=reader, trails=trails, health=health, clock=clock),
            acknowledge=AcknowledgeGap(begin=begin_gap, clock=clock),
            sign_provenance=SignProvenance(signer=signer),
        )
        yield AuditTrail(
            registration=servicer.registration,
            background=(
                Rounds("collect", collect, seconds=settings.audit_collect_seconds, clock=clock),
                Rounds("sign", seal, seconds=settings.audit_head_seconds, clock=clock, before=compare),
                Rounds("archive", archive, seconds=settings.audit_archive_seconds, clock=clock),
                Rounds("read through", read_through, seconds=settings.audit_read_through_seconds, clock=clock),
            ),
        )


def head_store(place: str) -> HeadStore:
    """Opens the head store at a directory or at an address that obstore knows."""
    if "://" not in place:
        return HeadDirectory(Path(place).absolute())
    from services.gateway.heads.head_bucket import HeadBucket  # 15 MB that a directory does without

    return HeadBucket.at(place)


async def _feeds(stack: AsyncExitStack, settings: GatewaySettings, workload: WorkloadSigner) -> list[GrpcAuditFeed]:
    targets = {
        "cost": settings.cost_target,
        "gateway": settings.gateway_target,
        "inference": settings.inference_target,
        "memory": settings.memory_target,
        "orchestrator": settings.orchestrator_target,
        "policy": settings.policy_target,
        "tools": settings.tools_target,
    }
    return [
        GrpcAuditFeed(name, await stack.enter_async_context(channel(target, identity=workload, idempotent=IDEMPOTENT)))
        for name, target in targets.items()
    ]
