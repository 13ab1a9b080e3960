"""Between messages and the domain. Pure functions."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_pb2, identity_service_pb2, status_service_pb2
from services.gateway.domain.api_key import ApiKey, KeyWish
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX, AccountWish, ServiceAccount
from services.gateway.usecases.ports import Health
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.grpc.signed_token import public_jwk

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
        scopes=tuple(dict.fromkeys(request.scopes)),
        service_account=to_uuid(request.service_account_id, SERVICE_ACCOUNT_PREFIX, field="service_account_id")
        if request.service_account_id
        else None,
    )


def to_account_wish(request: identity_service_pb2.CreateServiceAccountRequest) -> AccountWish:
    """Reads what a new service account shall be. Raises: Invalid."""
    return AccountWish(
        display_name=request.display_name, roles=to_roles(request.roles), project=request.project or None
    )


def key_to_proto(key: ApiKey) -> identity_pb2.ApiKey:
    """Writes a key, without anything of its secret."""
    return identity_pb2.ApiKey(
        api_key_id=from_uuid(KEY_PREFIX, key.id),
        display_name=key.display_name,
        roles=roles_to_proto(key.roles),
        project=key.project or "",
        create_time=timestamp(key.create_time),
        expire_time=optional_timestamp(key.expire_time),
        revoke_time=optional_timestamp(key.revoke_time),
        scopes=sorted(key.scopes or ()),
        last_use_time=optional_timestamp(key.last_use_time),
        service_account_id=""
        if key.service_account is None
        else from_uuid(SERVICE_ACCOUNT_PREFIX, key.service_account),
        previous_secret_expire_time=optional_timestamp(key.secrets.previous_until),
    )


def account_to_proto(account: ServiceAccount) -> identity_pb2.ServiceAccount:
    """Writes a service account."""
    return identity_pb2.ServiceAccount(
        service_account_id=account.subject,
        display_name=account.display_name,
        roles=roles_to_proto(account.roles),
        project=account.project or "",
        create_time=timestamp(account.create_time),
        disable_time=optional_timestamp(account.disable_time),
    )


def key_set_to_proto(keys: Mapping[str, bytes]) -> identity_service_pb2.GetKeySetResponse:
    """Writes public keys, as they stand in a key set file."""
    return identity_service_pb2.GetKeySetResponse(
        keys=[
            identity_service_pb2.GetKeySetResponse.Key(**public_jwk(kid, public))
            for kid, public in sorted(keys.items())
        ]
    )


def roles_to_proto(roles: Iterable[Role]) -> list[identity_pb2.Role.ValueType]:
    """Writes roles in the order of the contract."""
    return sorted(_ROLE_NUMBERS[role] for role in roles)


def health_to_proto(health: Health) -> status_service_pb2.ServiceHealth.ValueType:
    """Writes the health of a service."""
    return _HEALTH[health]


def optional_timestamp(time: datetime | None) -> Timestamp | None:
    """Writes a time that may be absent."""
    return None if time is None else timestamp(time)


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
