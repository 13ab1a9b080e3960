"""An API key: a name, roles, scopes, and how long it works."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.gateway.domain.held_roles import check_held
from services.gateway.domain.identity_errors import ApiKeyEnded, ServiceAccountDisabled
from services.gateway.domain.names import check_within, checked_name, project_within
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX, ServiceAccount
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX, KeySecrets, SecretHash
from services.meshkit.core.permissions import permissions_of

#: Longest time that an old secret may go on working after a rotation.
MAX_OVERLAP: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key of one tenant. Its secrets are not here; only hashes of them are stored."""

    id: UUID
    tenant: TenantId
    display_name: str
    roles: frozenset[Role]
    #: None means any project.
    project: str | None = None
    #: Permissions it is narrowed to; None means all that the roles grant.
    scopes: frozenset[str] | None = None
    #: Account it speaks for; None when it speaks for itself.
    service_account: UUID | None = None
    secrets: KeySecrets
    create_time: datetime
    #: None means never.
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    #: When it got its present secret; None while that is its first.
    rotate_time: datetime | None = None
    #: To the minute, and late by some seconds.
    last_use_time: datetime | None = None

    @property
    def subject(self) -> str:
        """Name of the key: `key_…`."""
        return from_uuid(KEY_PREFIX, self.id)

    def check_within(self, by: Principal) -> None:
        """Raises NotFound: `by` is bound to another project."""
        check_within(self.project, by, noun="API key", subject=self.subject)

    @property
    def secret_time(self) -> datetime:
        """When it got its present secret; of two, the later one has the later time, whatever the clocks say."""
        return self.rotate_time or self.create_time

    def works(self, now: datetime) -> bool:
        """True while the key is neither expired nor revoked."""
        return self.revoke_time is None and (self.expire_time is None or now < self.expire_time)

    def revoked(self, now: datetime) -> "ApiKey":
        """Ends the key. A revoked key stays as it is."""
        return self if self.revoke_time is not None else replace(self, revoke_time=now)

    def rotated(self, secret: SecretHash, *, by: Principal, now: datetime, overlap: timedelta) -> "ApiKey":
        """Gives the key a new secret; the old one works for `overlap` more.

        Raises: NotFound: `by` is bound to another project. RoleNotHeld: who holds the new secret may do more than `by`.
            ApiKeyEnded. Invalid: the overlap.
        """
        if not timedelta() <= overlap <= MAX_OVERLAP:
            raise Invalid("overlap_seconds", f"must be 0 to {int(MAX_OVERLAP.total_seconds())}")
        self.check_within(by)
        check_held(self.roles, by, scopes=self.scopes)
        if not self.works(now):
            raise ApiKeyEnded(self.subject)
        kept = self.secrets.current if overlap else None
        return replace(
            self,
            secrets=KeySecrets(secret, kept, now + overlap if overlap else None),
            rotate_time=max(now, self.secret_time + timedelta.resolution),
        )

    def principal(self) -> Principal:
        """Gives the identity of a holder."""
        account = self.service_account
        return Principal(
            tenant=self.tenant,
            subject=self.subject if account is None else from_uuid(SERVICE_ACCOUNT_PREFIX, account),
            roles=self.roles,
            project=self.project,
            scopes=self.scopes,
            api_key=None if account is None else self.subject,
            secret_time=self.secret_time.timestamp(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """What somebody wants a new key to be."""

    display_name: str
    roles: tuple[Role, ...]
    project: str | None
    expire_time: datetime | None
    #: Empty means all that the roles grant.
    scopes: tuple[str, ...] = ()
    service_account: UUID | None = None

    def of(self, account: ServiceAccount, *, by: Principal) -> "KeyWish":
        """Returns the wish with the roles and the project of the account that the key shall speak for.

        Raises: Invalid: roles or project are asked for beside. NotFound: `by` is bound to another project.
            ServiceAccountDisabled.
        """
        if self.roles:
            raise Invalid("roles", "must be empty: the key has the roles of its service account")
        if self.project is not None:
            raise Invalid("project", "must be empty: the key has the project of its service account")
        account.check_within(by)
        if not account.works:
            raise ServiceAccountDisabled(account.subject)
        return replace(self, roles=tuple(sorted(account.roles)), project=account.project)

    def checked(self, *, by: Principal, now: datetime) -> "KeyWish":
        """Returns the wish if `by` may have it.

        Raises: Invalid: a field is wrong. RoleNotHeld: nobody gives away what they do not hold.
        """
        checked_name(self.display_name)
        if not self.roles:
            raise Invalid("roles", "must name at least one role, such as ROLE_TENANT_USER")
        if self.expire_time is not None and self.expire_time <= now:
            raise Invalid("expire_time", "must lie in the future; leave it out for a key that does not expire")
        granted = permissions_of(self.roles)
        for index, scope in enumerate(self.scopes):
            if scope not in granted:
                raise Invalid(f"scopes[{index}]", f"{scope!r} is none of {', '.join(sorted(granted))}")
        check_held(self.roles, by, scopes=frozenset(self.scopes) or None)
        return replace(self, project=project_within(self.project, by))
