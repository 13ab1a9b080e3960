"""Workflows in Postgres, as canonical JSON with its digest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, tenant_scope
from services.orchestrator.domain.agent import parse_version
from services.orchestrator.domain.errors import WorkflowNotFound, WorkflowVersionExists
from services.orchestrator.domain.workflow import StoredWorkflow, WorkflowSummary
from services.orchestrator.storage.advisory_locks import WORKFLOWS_LOCK
from services.orchestrator.storage.tables import WORKFLOW
from services.orchestrator.storage.version_quota import VersionQuota
from services.orchestrator.storage.version_rows import pinned_versions, version_page, version_row
from services.orchestrator.workflows.definition import KnownWorkflow
from services.orchestrator.workflows.document import canonical_bytes, workflow_of
from services.orchestrator.workflows.fields import canonical

_QUOTA: Final = VersionQuota("max_workflows", WORKFLOW, lock=WORKFLOWS_LOCK)
_SUMMARY: Final = ("name", "version", "description", "deadline", "digest", "depth", "node_count", "create_time")


class WorkflowRepository:
    """Implements `usecases.ports.WorkflowStore`."""

    def __init__(self, engine: AsyncEngine, *, tenants: KnowsTenants) -> None:
        self._engine = engine
        self._tenants = tenants

    async def add(self, tenant: TenantId, made: StoredWorkflow, *, written_digest: str) -> StoredWorkflow:
        """See `WorkflowStore.add`."""
        workflow, schema = made.workflow, made.workflow.input_schema
        major, minor, patch = parse_version(workflow.version, field="version")
        statement = (
            insert(WORKFLOW)
            .values(
                tenant_id=tenant,
                name=workflow.name,
                version=workflow.version,
                major=major,
                minor=minor,
                patch=patch,
                definition=canonical_bytes(workflow),
                digest=bytes.fromhex(made.digest),
                written_digest=bytes.fromhex(written_digest),
                description=workflow.description,
                deadline=workflow.deadline,
                input_schema=None if schema is None else canonical(schema),
                node_count=made.node_count,
                depth=made.depth,
            )
            .on_conflict_do_nothing()
        )
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            added = (await scope.execute(statement)).rowcount
            row = await self._one(scope, tenant, workflow.name, workflow.version)
            if row["digest"].hex() != made.digest and row["written_digest"].hex() != written_digest:
                raise WorkflowVersionExists(workflow.name, workflow.version)
            # What was just made need not be read again.
            stored = replace(made, create_time=row["create_time"]) if added else _stored(row)
            if added:
                await _QUOTA.check(scope, tenant, most=rules_of(self._tenants, tenant).quotas.max_workflows)
                await keep_once(scope, stored)
                await scope.commit()
        return stored

    async def find(self, tenant: TenantId, name: str, version: str) -> StoredWorkflow:
        """See `WorkflowStore.find`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = await self._one(scope, tenant, name, version)
        return _stored(row)

    async def known(
        self, tenant: TenantId, references: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], KnownWorkflow]:
        """See `WorkflowStore.known`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await pinned_versions(scope, WORKFLOW, tenant, references, ("depth", "input_schema"))
        return {
            (row["name"], row["asked"]): KnownWorkflow(
                version=row["version"],
                depth=row["depth"],
                input_schema=None if row["input_schema"] is None else json.loads(row["input_schema"]),
            )
            for row in rows
        }

    async def page(
        self, tenant: TenantId, *, name: str, after: tuple[str, str] | None, most: int
    ) -> Sequence[WorkflowSummary]:
        """Gives workflows by name, then version, those after the pair (name, version).

        Args:
            name: only versions of this one; empty for all.
        """
        columns = WORKFLOW.c
        statement = select(*(columns[field] for field in _SUMMARY)).where(columns.tenant_id == tenant)
        if name:
            statement = statement.where(columns.name == name)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await version_page(scope, statement, WORKFLOW, after=after, most=most)
        return [WorkflowSummary(**{**row, "digest": row["digest"].hex()}) for row in rows]

    async def _one(self, scope: Scope, tenant: TenantId, name: str, version: str) -> RowMapping:
        row = await version_row(scope, WORKFLOW, tenant, name, version)
        if row is None:
            raise WorkflowNotFound(f"{name}@{version}" if version else name)
        return row


def _stored(row: RowMapping) -> StoredWorkflow:
    return StoredWorkflow(
        workflow=workflow_of(json.loads(row["definition"])),
        digest=row["digest"].hex(),
        depth=row["depth"],
        node_count=row["node_count"],
        create_time=row["create_time"],
    )
