"""Between messages and the domain. Pure functions."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_pb2, identity_service_pb2, status_service_pb2, tenant_pb2
from services.gateway.domain.api_key import ApiKey, KeyWish
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.usecases.ports import Health, Repeatable
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX

_ROLE_NUMBERS: Final = {
    Role.ADMIN: identity_pb2.ROLE_ADMIN,
    Role.OPERATOR: identity_pb2.ROLE_OPERATOR,
    Role.AUDITOR: identity_pb2.ROLE_AUDITOR,
    Role.TENANT_USER: identity_pb2.ROLE_TENANT_USER,
}
_ROLES: Final[dict[int, Role]] = {number: role for role, number in _ROLE_NUMBERS.items()}
_HEALTH: Final = {
    Health.SERVING: status_service_pb2.SERVICE_HEALTH_SERVING,
    Health.NOT_SERVING: status_service_pb2.SERVICE_HEALTH_NOT_SERVING,
    Health.UNREACHABLE: status_service_pb2.SERVICE_HEALTH_UNREACHABLE,
}


def to_roles(numbers: Iterable[int], *, field: str = "roles") -> tuple[Role, ...]:
    """Reads roles, each once. Raises: Invalid."""
    roles: dict[Role, None] = {}
    for index, number in enumerate(numbers):
        role = _ROLES.get(number)
        if role is None:
            raise Invalid(f"{field}[{index}]", "is no role; the roles are " + ", ".join(identity_pb2.Role.keys()[1:]))
        roles[role] = None
    return tuple(roles)


def to_key_wish(request: identity_service_pb2.CreateApiKeyRequest) -> KeyWish:
    """Reads what a new key shall be. Raises: Invalid."""
    return KeyWish(
        display_name=request.display_name,
        roles=to_roles(request.roles),
        project=request.project or None,
        expire_time=_to_datetime(request.expire_time) if request.HasField("expire_time") else None,
    )


def to_repeatable(request: Message, request_id: str, *, method: str) -> Repeatable | None:
    """Reads what makes a request repeatable; None when it carries no id. Raises: Invalid."""
    if not request_id:
        return None
    try:
        number = UUID(request_id)
    except ValueError as error:
        raise Invalid("request_id", "must be a UUID, such as 0190b2a4-6c1d-7a3e-9a51-3f6f1f1d2c11") from error
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return Repeatable(method=method, request_id=number, body=body.SerializeToString(deterministic=True))


def key_to_proto(key: ApiKey) -> identity_pb2.ApiKey:
    """Writes a key, without anything of its secret."""
    return identity_pb2.ApiKey(
        api_key_id=from_uuid(KEY_PREFIX, key.id),
        display_name=key.display_name,
        roles=roles_to_proto(key.roles),
        project=key.project or "",
        create_time=timestamp(key.create_time),
        expire_time=None if key.expire_time is None else timestamp(key.expire_time),
        revoke_time=None if key.revoke_time is None else timestamp(key.revoke_time),
    )


def tenant_to_proto(tenant: Tenant) -> tenant_pb2.Tenant:
    """Writes a tenant."""
    return tenant_pb2.Tenant(
        tenant_id=from_uuid(TENANT_PREFIX, tenant.id),
        name=tenant.name,
        create_time=timestamp(tenant.create_time),
        residency_region=tenant.residency_region,
    )


def roles_to_proto(roles: Iterable[Role]) -> list[identity_pb2.Role.ValueType]:
    """Writes roles in the order of the contract."""
    return sorted(_ROLE_NUMBERS[role] for role in roles)


def health_to_proto(health: Health) -> status_service_pb2.ServiceHealth.ValueType:
    """Writes the health of a service."""
    return _HEALTH[health]


def timestamp(time: datetime) -> Timestamp:
    """Writes a time."""
    written = Timestamp()
    written.FromDatetime(time)
    return written


def _to_datetime(written: Timestamp) -> datetime:
    try:
        return written.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("expire_time", "is no time between the years 1 and 9999") from error
