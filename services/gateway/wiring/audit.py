"""Puts the audit trail of the gateway together; a part of the wiring."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.gateway.clients.audit_feed import IDEMPOTENT, GrpcAuditFeed
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.heads.erasure_notes import SignedErasureNotes
from services.gateway.heads.head_directory import HeadDirectory
from services.gateway.heads.head_signer import Ed25519HeadSigner
from services.gateway.settings import GatewaySettings
from services.gateway.storage.audit_gaps import SqlBeginGapWork
from services.gateway.storage.audit_intake import SqlAuditIntake
from services.gateway.storage.audit_reader import SqlAuditReader
from services.gateway.storage.audit_trails import SqlAuditTrails
from services.gateway.transport.audit_servicer import AuditServicer
from services.gateway.usecases.acknowledge_gap import AcknowledgeGap
from services.gateway.usecases.archive_audit import ArchiveAudit
from services.gateway.usecases.audit_rounds import Rounds
from services.gateway.usecases.audit_status import AuditStatus
from services.gateway.usecases.check_audit import CheckHeads, ReadThrough
from services.gateway.usecases.collect_audit import CollectAudit
from services.gateway.usecases.prove_audit import ProveConsistency, ProveEntry
from services.gateway.usecases.read_audit import ExportAudit, ReadAudit
from services.gateway.usecases.seal_audit import CheckAgainstHead, LastHeads, SealAudit
from services.gateway.usecases.sign_provenance import SignProvenance
from services.gateway.wiring.ground import Ground, mesh
from services.meshkit.core.clock import Clock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.engine import sql_engine

if TYPE_CHECKING:
    from services.gateway.heads.head_bucket import HeadBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTrail:
    """What the gateway serves and does about the audit trail."""

    registration: Registration
    background: tuple[Background, ...]


@asynccontextmanager
async def audit_trail(on: Ground) -> AsyncGenerator[AuditTrail]:
    """Gives the audit trail.

    Work over all tenants has connections of its own, so that nobody who asks for an identity waits behind it.

    Raises: KeyUnreadable, HeadMalformed: the audit key or key set cannot be read.
    """
    settings, clock = on.settings, on.clock
    signer = audit_signer(settings, clock)
    reader, store, health = SqlAuditReader(on.app), head_store(settings.audit_store), AuditHealth()
    url = settings.maintenance_database_url.get_secret_value()
    async with AsyncExitStack() as stack:
        maintenance = await stack.enter_async_context(sql_engine(url, pool_size=3, application_name="gateway-audit"))
        feeds = await _feeds(stack, on)
        trails = SqlAuditTrails(maintenance)
        check = CheckAgainstHead(reader=reader, health=health)
        last = LastHeads(store=store, reader=reader, signer=signer)
        seal = SealAudit(trails=trails, check=check, last=last, store=store, signer=signer, health=health)
        compare = CheckHeads(store=store, trails=trails, seal=seal, health=health)
        collect = CollectAudit(feeds, intake=SqlAuditIntake(maintenance), health=health, clock=clock)
        archive = ArchiveAudit(trails=trails, store=store, clock=clock, keep=timedelta(days=settings.audit_hot_days))
        read_through = ReadThrough(trails=trails, reader=reader, health=health, clock=clock)
        read = ReadAudit(reader=reader, store=store)
        servicer = AuditServicer(
            reader=reader,
            export=ExportAudit(read=read, reader=reader, seal=seal, signer=signer),
            prove_entry=ProveEntry(reader=reader, read=read),
            prove_consistency=ProveConsistency(reader=reader),
            status=AuditStatus(reader=reader, trails=trails, health=health, clock=clock),
            acknowledge=AcknowledgeGap(begin=SqlBeginGapWork(on.app), clock=clock),
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


def audit_signer(settings: GatewaySettings, clock: Clock) -> Ed25519HeadSigner:
    """Reads the audit key. Raises: KeyUnreadable, HeadMalformed."""
    return Ed25519HeadSigner.read(settings.audit_key_path, settings.audit_jwks_path, clock=clock)


def erasure_notes(settings: GatewaySettings, clock: Clock) -> SignedErasureNotes:
    """Opens the notes of erasures beside the signed heads. Raises: KeyUnreadable, HeadMalformed."""
    return SignedErasureNotes(head_store(settings.audit_store), audit_signer(settings, clock))


def head_store(place: str) -> "HeadDirectory | HeadBucket":
    """Opens the head store at a directory or at an address that obstore knows."""
    if "://" not in place:
        return HeadDirectory(Path(place).absolute())
    from services.gateway.heads.head_bucket import HeadBucket  # 15 MB that a directory does without

    return HeadBucket.at(place)


async def _feeds(stack: AsyncExitStack, on: Ground) -> list[GrpcAuditFeed]:
    connect = partial(channel, identity=on.workload, idempotent=IDEMPOTENT)
    return [
        GrpcAuditFeed(name, await stack.enter_async_context(connect(target)))
        for name, target in mesh(on.settings).items()
    ]
