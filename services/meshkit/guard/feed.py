"""What this service knows of revocations, tenants and keys: pushed by the gateway, asked at every call."""

from collections.abc import Callable, Generator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.key_secret import KeySecrets, SecretHash
from services.meshkit.core.tenant import AuditLevel, GuardedTenantState, TenantState
from services.meshkit.grpc.identity import VerifiedToken
from services.meshkit.guard import convert
from services.meshkit.guard.errors import GuardUnknown, TenantSuspended, TokenRevoked
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: A revocation is remembered this long, seconds: longer than any token lives that was issued before it.
REMEMBER_REVOKED_SECONDS: Final = 20 * 60
#: Stands among the revoked subjects of a tenant for all of them; no subject is without a name.
_EVERYBODY: Final = ""
#: Told which tenant changed; None stands for all.
Listener = Callable[[TenantId | None], None]

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """An API key that works, as far as is known here."""

    tenant: TenantId
    #: Who a holder is within the tenant: `key_…`, or `svc_…` of the service account it speaks for.
    subject: str
    secrets: KeySecrets = field(repr=False)
    roles: frozenset[Role]
    project: str | None = None
    #: None means all that the roles grant.
    scopes: frozenset[str] | None = None
    #: None means never.
    expire_time: datetime | None = None

    def fits(self, secret: str, *, now: datetime) -> bool:
        """True when the key works and this is its secret; as fast for a wrong secret as for a right one."""
        fits = self.secrets.fit(secret, now=now)
        return fits and (self.expire_time is None or now < self.expire_time)


class _Known:
    """One whole state. Tenants without any rule are left out: unknown means active without quotas."""

    def __init__(self) -> None:
        self.tenants: dict[TenantId, GuardedTenantState] = {}
        #: The same as the gateway said it.
        self.said: dict[TenantId, pb.GuardedTenant] = {}
        self.keys: dict[UUID, KnownKey] = {}
        #: Unix time of the revocation, by subject.
        self.revoked: dict[TenantId, dict[str, float]] = {}
        #: See `GuardFeed.is_cut`.
        self.is_cut = False


class GuardFeed:
    """Implements `meshkit.grpc.guard.Standing`; reading it costs no round trip.

    Knows nothing at first, and lets nobody in then: whoever it knows nothing of may be revoked, suspended, or bound to
    networks and tools. It goes on with what it knows while the gateway is away; `age` tells.

    Args:
        most_keys: keys kept; one more is not known here, and `key` gives None for it.
        most_tenants: tenants kept of those with rules, the ended ones among them; beyond them nobody of a tenant that
            is not kept is let in, for its rules are not known.
        most_revoked: revocations kept for each tenant, of 20 minutes; beyond them all its tokens from before the latest
            are refused, and their holders fetch new ones.
    """

    def __init__(
        self, *, clock: Clock, most_keys: int = 200_000, most_tenants: int = 200_000, most_revoked: int = 20_000
    ) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._most_tenants = most_tenants
        self._most_revoked = most_revoked
        self._known = _Known()
        #: A whole state on its way; what was known before holds until it is complete.
        self._coming: _Known | None = None
        self._listeners: set[Listener] = set()
        self._heard_at: float | None = None
        #: Told how long ago a revocation was when it arrived here, seconds.
        self._arrived: Callable[[float], None] = lambda _: None
        #: Version of the gateway's state that is known here whole; 0 before the first.
        self.version = 0
        #: False until a whole state is known, of the gateway or of an earlier process.
        self.knows = False

    def tenant(self, tenant: TenantId) -> GuardedTenantState | None:
        """Gives what is known of a tenant; None for an active one without quotas and rules, and for an unknown one."""
        return self._known.tenants.get(tenant)

    def key(self, api_key_id: UUID) -> KnownKey | None:
        """Gives a key that works, with the hashes to verify a secret by; None for one that is not known here."""
        return self._known.keys.get(api_key_id)

    def age(self) -> float:
        """Gives the seconds since the gateway's last word; infinite before the first whole state."""
        if self._heard_at is None or self.version == 0:
            return float("inf")
        return max(0.0, self._clock.monotonic() - self._heard_at)

    @property
    def is_cut(self) -> bool:
        """True when there are more tenants with rules than are kept: of one that is not there nothing is known."""
        return self._known.is_cut

    def check(self, verified: VerifiedToken) -> None:
        """See `Standing.check`."""
        if not self.knows:
            raise GuardUnknown
        principal = verified.principal
        tenant = self._known.tenants.get(principal.tenant)
        if tenant is None and self.is_cut:
            raise GuardUnknown
        if tenant is not None and tenant.state is not TenantState.ACTIVE:
            raise TenantSuspended
        revoked = self._known.revoked.get(principal.tenant)
        if revoked is None:
            return
        if verified.issued <= revoked.get(_EVERYBODY, 0.0):
            raise TokenRevoked
        key = principal.api_key
        since = revoked.get(principal.subject)
        # Of a key that speaks for itself the token says what it says of a person: since when it has been as it is.
        shown = principal.secret_time if key is None and principal.roles_time is None else principal.roles_time
        if since is not None and _is_of_before(verified, shown, since):
            raise TokenRevoked
        since = None if key is None else revoked.get(key)
        if since is not None and _is_of_before(verified, principal.secret_time, since):
            raise TokenRevoked

    def audits_refused_reads(self, tenant: TenantId) -> bool:
        """See `Standing.audits_refused_reads`."""
        known = self._known.tenants.get(tenant)
        return known is not None and known.security_policy.audit_level is AuditLevel.REFUSALS

    def allowed_networks(self, tenant: TenantId) -> tuple[str, ...]:
        """See `Standing.allowed_networks`."""
        known = self._known.tenants.get(tenant)
        return () if known is None else known.security_policy.allowed_networks

    def ruled(self) -> tuple[TenantId, ...]:
        """Lists the tenants that `tenant` says something of."""
        return tuple(self._known.tenants)

    @contextmanager
    def changed(self, listener: Listener) -> Generator[None]:
        """See `Standing.changed`; also told when a key of the tenant changed."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def take(self, news: pb.WatchGuardResponse) -> None:
        """Takes in one message of the gateway."""
        self._heard_at = self._clock.monotonic()
        if news.reset:
            self._coming = _Known()
        known = self._known if self._coming is None else self._coming
        touched = self._write(known, news)
        if news.complete:
            self.version, self.knows = news.version, True
            if self._coming is not None:
                self._known, self._coming = self._coming, None
                touched = {None}
            self._forget_old()
        if self._coming is None:
            self._tell(touched)

    def recall(self, kept: pb.WatchGuardResponse) -> None:
        """Takes in what an earlier process has kept, until the gateway has told its whole state."""
        if self.version == 0:
            known = _Known()
            self._write(known, kept)
            self._known, self.knows = known, True
            self._forget_old()
            self._tell({None})

    def to_keep(self) -> pb.WatchGuardResponse:
        """Gives for `recall` what tokens are held against: tenants with rules, and who was revoked."""
        return pb.WatchGuardResponse(
            tenants=[self._known.said[tenant] for tenant in sorted(self._known.said)],
            revoked=[
                pb.RevokedSubject(
                    tenant_id=convert.tenant_text(tenant), subject=subject, revoke_time=convert.timestamp(at)
                )
                for tenant, subjects in sorted(self._known.revoked.items())
                for subject, at in sorted(subjects.items())
            ],
        )

    def restart(self) -> None:
        """Drops a state that was on its way when the stream broke."""
        self._coming = None

    def show(self, service: str) -> None:
        """Has the metrics page show the feed."""
        self._arrived = metrics.REVOCATION_LAG.labels(service).observe
        metrics.GUARD_FEED_AGE.labels(service).set_function(self.age)
        metrics.CACHE_ITEMS.labels(f"{service}.guard_keys").set_function(lambda: len(self._known.keys))
        metrics.CACHE_ITEMS.labels(f"{service}.guard_tenants").set_function(lambda: len(self._known.tenants))
        metrics.CACHE_ITEMS.labels(f"{service}.guard_revoked").set_function(
            lambda: sum(len(subjects) for subjects in self._known.revoked.values())
        )

    def _write(self, known: _Known, news: pb.WatchGuardResponse) -> set[TenantId | None]:
        touched: set[TenantId | None] = set()
        for tenant in news.tenants:
            tenant_id, state = convert.tenant_id(tenant.tenant_id), convert.tenant_state(tenant)
            touched.add(tenant_id)
            if state == _UNRULED:
                known.tenants.pop(tenant_id, None)
                known.said.pop(tenant_id, None)
            elif tenant_id in known.tenants or len(known.tenants) < self._most_tenants:
                known.tenants[tenant_id], known.said[tenant_id] = state, tenant
            else:
                known.is_cut = True
                metrics.QUEUE_REFUSED.labels("guard.tenants").inc()
        for revoked in news.revoked:
            tenant_id = convert.tenant_id(revoked.tenant_id)
            touched.add(tenant_id)
            subjects = known.revoked.setdefault(tenant_id, {})
            at = convert.moment(revoked.revoke_time).timestamp()
            # A whole state tells of revocations again.
            if known is self._known and at > subjects.get(revoked.subject, 0.0):
                self._arrived(max(0.0, self._clock.now().timestamp() - at))
            subjects[revoked.subject] = max(at, subjects.get(revoked.subject, at))
            if len(subjects) > self._most_revoked:
                latest = max(subjects.values())
                subjects.clear()
                subjects[_EVERYBODY] = latest
                metrics.QUEUE_REFUSED.labels("guard.revoked").inc()
        for key in news.keys:
            touched.add(convert.tenant_id(key.tenant_id))
            self._keep(known, key)
        for ended in news.ended_keys:
            known.keys.pop(convert.key_id(ended.api_key_id), None)
            touched.add(convert.tenant_id(ended.tenant_id))
        return touched

    def _keep(self, known: _Known, key: pb.GuardedKey) -> None:
        key_id = convert.key_id(key.api_key_id)
        if key_id not in known.keys and len(known.keys) >= self._most_keys:
            metrics.QUEUE_REFUSED.labels("guard.keys").inc()
            return
        known.keys[key_id] = KnownKey(
            tenant=convert.tenant_id(key.tenant_id),
            subject=key.service_account_id or key.api_key_id,
            secrets=KeySecrets(
                SecretHash(key.salt, key.digest),
                SecretHash(key.previous_salt, key.previous_digest) if key.previous_digest else None,
                convert.moment(key.previous_expire_time) if key.HasField("previous_expire_time") else None,
            ),
            roles=frozenset(convert.ROLES[role] for role in key.roles if role in convert.ROLES),
            project=key.project or None,
            scopes=frozenset(key.scopes) or None,
            expire_time=convert.moment(key.expire_time) if key.HasField("expire_time") else None,
        )

    def _forget_old(self) -> None:
        before = self._clock.now().timestamp() - REMEMBER_REVOKED_SECONDS
        for tenant, subjects in list(self._known.revoked.items()):
            for subject in [subject for subject, at in subjects.items() if at < before]:
                del subjects[subject]
            if not subjects:
                del self._known.revoked[tenant]

    def _tell(self, touched: Set[TenantId | None]) -> None:
        for tenant in (None,) if None in touched else touched:
            for listener in tuple(self._listeners):
                listener(tenant)


def _is_of_before(verified: VerifiedToken, shown: float | None, since: float) -> bool:
    """Tells whether a token shows its subject as it was before a moment.

    A person's token says since when they have had the roles in it, and that of a key since when it has had its secret;
    the clocks of who issued and who revoked do not count. For accounts, which end for good, and for tokens of an
    earlier release the time of issue counts.

    Args:
        shown: what the token says; None for nothing.
    """
    return verified.issued <= since if shown is None else shown < since


#: What is not worth keeping.
_UNRULED: Final = GuardedTenantState()
