"""Agents in Postgres, as canonical JSON with its digest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, cast

import rfc8785
from asyncpg import Record
from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import Scope, tenant_scope
from services.orchestrator.domain.agent import Agent, MemoryPolicy, parse_version
from services.orchestrator.domain.errors import AgentNotFound, AgentVersionExists
from services.orchestrator.storage.advisory_locks import AGENTS_LOCK
from services.orchestrator.storage.one_trips import FIND_AGENTS
from services.orchestrator.storage.tables import AGENT
from services.orchestrator.storage.version_quota import VersionQuota
from services.orchestrator.storage.version_rows import pinned_versions, version_page, version_row

_QUOTA: Final = VersionQuota("max_agents", AGENT, lock=AGENTS_LOCK)
#: Fields that are no part of the definition.
_STORED_APART: Final = frozenset({"digest", "create_time"})


class AgentRepository:
    """Implements `usecases.ports.AgentStore`."""

    def __init__(self, engine: AsyncEngine, *, tenants: KnowsTenants) -> None:
        self._engine = engine
        self._tenants = tenants

    async def add(self, tenant: TenantId, agent: Agent) -> Agent:
        """See `AgentStore.add`."""
        definition = definition_of(agent)
        digest = sha256(definition).digest()
        major, minor, patch = parse_version(agent.version, field="agent.version")
        statement = (
            insert(AGENT)
            .values(
                tenant_id=tenant,
                name=agent.name,
                version=agent.version,
                major=major,
                minor=minor,
                patch=patch,
                definition=definition,
                digest=digest,
            )
            .on_conflict_do_nothing()
        )
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            added = (await scope.execute(statement)).rowcount
            stored = await self._one(scope, tenant, agent.name, agent.version)
            if stored["digest"] != digest:
                raise AgentVersionExists(agent.name, agent.version)
            if added:
                await _QUOTA.check(scope, tenant, most=rules_of(self._tenants, tenant).quotas.max_agents)
                await keep_once(scope, _agent_of(stored))
                await scope.commit()
        return _agent_of(stored)

    async def find(self, tenant: TenantId, name: str, version: str) -> Agent:
        """See `AgentStore.find`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return _agent_of(await self._one(scope, tenant, name, version))

    async def resolve(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Sequence[Agent]:
        """See `AgentStore.resolve`."""
        names, versions = [name for name, _ in references], [version for _, version in references]
        rows = await one_trip(self._engine, tenant, FIND_AGENTS, tenant, names, versions)
        found = {row["place"]: _agent_of(row) for row in rows}
        for place, (name, version) in enumerate(references, start=1):
            if place not in found:
                raise AgentNotFound(f"{name}@{version}" if version else name, field=f"agents[{place - 1}]")
        return [found[place] for place in range(1, len(references) + 1)]

    async def versions(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """See `AgentVersions.versions`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await pinned_versions(scope, AGENT, tenant, references)
        return {(row["name"], row["asked"]): row["version"] for row in rows}

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Agent]:
        """Gives agents by name, then version, those after the pair (name, version)."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            every = select(AGENT).where(AGENT.c.tenant_id == tenant)
            rows = await version_page(scope, every, AGENT, after=after, most=most)
        return [_agent_of(row) for row in rows]

    async def _one(self, scope: Scope, tenant: TenantId, name: str, version: str) -> RowMapping:
        row = await version_row(scope, AGENT, tenant, name, version)
        if row is None:
            raise AgentNotFound(f"{name}@{version}" if version else name)
        return row


def definition_of(agent: Agent) -> bytes:
    """Writes the canonical definition, of which the digest is made."""
    fields = {key: value for key, value in asdict(agent).items() if key not in _STORED_APART}
    if not agent.plans:
        # Agents that were made before any could plan keep their digests.
        del fields["plans"]
    return rfc8785.dumps({**fields, "tools": list(agent.tools), "style": dict(agent.style)})


def _agent_of(row: RowMapping | Record) -> Agent:
    fields: dict[str, Any] = json.loads(row["definition"])
    fields["tools"] = tuple(fields["tools"])
    fields["memory"] = MemoryPolicy(**fields["memory"])
    agent = Agent(**fields)
    return replace(agent, digest=row["digest"].hex(), create_time=cast(datetime, row["create_time"]))
