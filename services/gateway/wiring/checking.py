"""Puts together what looks through the audit trail."""

from collections.abc import Sequence
from functools import partial

from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.settings import GatewaySettings
from services.gateway.storage.audit_reader import SqlAuditReader
from services.gateway.storage.audit_trails import SqlAuditTrails
from services.gateway.storage.tenant_work import SqlTenantReader
from services.gateway.usecases.check_audit import CheckHeads, ReadThrough
from services.gateway.usecases.compare_heads import CompareHeads
from services.gateway.usecases.erase_tenants import erased_before
from services.gateway.usecases.read_audit import ReadAudit
from services.gateway.usecases.seal_audit import CheckAgainstHead, LastHeads, SealAudit
from services.gateway.wiring.audit import audit_signer, erasure_notes, head_store
from services.meshkit.checking import STATEMENT_SECONDS
from services.meshkit.core.checked import Checked
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.engine import sql_engine


async def check_audit(settings: GatewaySettings) -> Sequence[Checked]:
    """Hashes every entry of every tenant again, in the database and in the archive, and compares with signed heads.

    Says who is erased again at the next start, too, for that nobody takes back.

    Raises: Unavailable: the database or the head store is away.
    """
    clock, store, health = SystemClock(), head_store(settings.audit_store), AuditHealth()
    signer = audit_signer(settings, clock)
    opened = partial(sql_engine, pool_size=1, command_timeout_seconds=STATEMENT_SECONDS)
    async with (
        opened(settings.database_url.get_secret_value()) as app,
        opened(settings.maintenance_database_url.get_secret_value()) as maintenance,
    ):
        reader, trails = SqlAuditReader(app), SqlAuditTrails(maintenance)
        seal = SealAudit(
            trails=trails,
            check=CheckAgainstHead(reader=reader, health=health),
            last=LastHeads(store=store, reader=reader, signer=signer),
            store=store,
            signer=signer,
            health=health,
        )
        await CheckHeads(store=store, trails=trails, seal=seal, health=health)()
        await ReadThrough(trails=trails, reader=reader, health=health, clock=clock, page=1_000, pause_seconds=0)()
        heads = await CompareHeads(store=store, trails=trails, reader=reader)()
        tenants = await trails.tenants()
        entries = sum([await reader.size(tenant) for tenant in tenants])
        faults = [f"{_name(tenant)}: {wrong}" for tenant, wrong in health.contradictions.items()]
        faults += [f"{_name(tenant)}: {wrong}" for tenant, wrong in heads.faults.items()]
        read = ReadAudit(reader=reader, store=store)
        for tenant in tenants:
            faults += await _faults_of_archive(tenant, reader, read)
        back = await erased_before(erasure_notes(settings, clock), SqlTenantReader(app))
    compared = f"the signed heads of {heads.in_store}"
    if heads.copies_alone:
        compared += f", and of {heads.copies_alone} with a copy alone"
    found = [Checked(what=f"{entries} audit entries of {len(tenants)} tenants, {compared}", faults=faults)]
    if back:
        names = ", ".join(f"{tenant.subject} ({tenant.name})" for tenant in back)
        found.append(Checked(what=f"tenants that are erased again at the next start: {names}", faults=()))
    return found


async def _faults_of_archive(tenant: TenantId, reader: SqlAuditReader, read: ReadAudit) -> list[str]:
    faults: list[str] = []
    for part in await reader.archive_parts(tenant, 0, await reader.size(tenant)):
        try:
            async for _ in read.stretch(tenant, part.first, part.end):
                pass
        except HeadStoreDamaged as error:
            faults.append(f"{_name(tenant)}: {error.message}")
    return faults


def _name(tenant: TenantId) -> str:
    return from_uuid(TENANT_PREFIX, tenant)
