"""Rows to domain objects."""

from collections.abc import Mapping
from typing import Any

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant
from services.gateway.domain.service_account import ServiceAccount
from services.gateway.domain.tenant import Tenant
from services.gateway.storage.tenant_rows import policy_of, quotas_of
from services.gateway.usecases.identity_ports import StoredSigningKey
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX, KeySecrets, SecretHash
from services.meshkit.core.tenant import TenantState

# A row's values are whatever the driver made of them.
Row = Mapping[Any, Any]


def tenant_of(row: Row) -> Tenant:
    """Reads a row of `tenant`."""
    return Tenant(
        id=TenantId(row["tenant_id"]),
        name=row["name"],
        create_time=row["create_time"],
        residency_region=row["residency_region"],
        state=TenantState(row["state"]),
        quotas=quotas_of(row["quotas"]),
        security_policy=policy_of(row["security_policy"]),
        revision=row["revision"],
    )


def key_of(row: Row) -> ApiKey:
    """Reads a row of `api_key`."""
    return ApiKey(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        display_name=row["display_name"],
        roles=frozenset(Role(role) for role in row["roles"]),
        project=row["project"],
        scopes=None if row["scopes"] is None else frozenset(row["scopes"]),
        service_account=row["service_account_id"],
        secrets=KeySecrets(
            SecretHash(row["salt"], row["digest"]),
            None if row["previous_digest"] is None else SecretHash(row["previous_salt"], row["previous_digest"]),
            row["previous_expire_time"],
        ),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
        rotate_time=row["rotate_time"],
        last_use_time=row["last_use_time"],
    )


def account_of(row: Row) -> ServiceAccount:
    """Reads a row of `service_account`."""
    return ServiceAccount(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        display_name=row["display_name"],
        roles=frozenset(Role(role) for role in row["roles"]),
        project=row["project"],
        create_time=row["create_time"],
        disable_time=row["disable_time"],
    )


def signing_key_of(row: Row) -> StoredSigningKey:
    """Reads a row of `signing_key`."""
    return StoredSigningKey(kid=row["kid"], public=row["public"], sealed=row["sealed"], sign_time=row["sign_time"])


def grant_of(row: Row) -> Grant:
    """Reads a row of `run_grant`."""
    return Grant(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        run=row["run_id"],
        # Rows of older releases name the key alone.
        subject=row["subject"] or from_uuid(KEY_PREFIX, row["api_key_id"]),
        api_key=_key_beside(row),
        roles=frozenset(Role(role) for role in row["roles"]),
        project=row["project"],
        scopes=None if row["scopes"] is None else frozenset(row["scopes"]),
        create_time=row["create_time"],
        revoke_time=row["revoke_time"],
    )


def _key_beside(row: Row) -> str | None:
    """Gives the key that a grant stands on beside its subject."""
    key = None if row["api_key_id"] is None else from_uuid(KEY_PREFIX, row["api_key_id"])
    return None if row["subject"] in (None, key) else key
