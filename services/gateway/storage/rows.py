"""Rows to domain objects."""

from collections.abc import Mapping
from typing import Any

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant
from services.gateway.domain.tenant import Tenant
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX, SecretHash

# A row's values are whatever the driver made of them.
Row = Mapping[Any, Any]


def tenant_of(row: Row) -> Tenant:
    """Reads a row of `tenant`."""
    return Tenant(
        id=TenantId(row["tenant_id"]),
        name=row["name"],
        create_time=row["create_time"],
        residency_region=row["residency_region"],
    )


def key_of(row: Row) -> ApiKey:
    """Reads a row of `api_key`."""
    return ApiKey(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        display_name=row["display_name"],
        roles=frozenset(Role(role) for role in row["roles"]),
        project=row["project"],
        hash=SecretHash(row["salt"], row["digest"]),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
    )


def grant_of(row: Row) -> Grant:
    """Reads a row of `run_grant`."""
    return Grant(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        run=row["run_id"],
        # Rows of older releases name the key alone.
        subject=row["subject"] or from_uuid(KEY_PREFIX, row["api_key_id"]),
        roles=frozenset(Role(role) for role in row["roles"]),
        project=row["project"],
        scopes=None if row["scopes"] is None else frozenset(row["scopes"]),
        create_time=row["create_time"],
        revoke_time=row["revoke_time"],
    )
