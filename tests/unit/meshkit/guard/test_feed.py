"""What a service knows of revocations, tenants and keys."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1 import identity_pb2, tenant_pb2
from services.meshkit.core.errors import ErrorKind, Unavailable
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.core.key_secret import SecretHash
from services.meshkit.core.tenant import TenantState
from services.meshkit.grpc.identity import TokenSigner, TokenVerifier, VerifiedToken
from services.meshkit.grpc.signed_token import KeySetFile
from services.meshkit.guard.errors import GuardUnknown, TenantSuspended, TokenRevoked
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.follow import FollowGuard
from services.meshkit.testing.fake_clock import NOON, FakeClock
from services.meshkit.testing.mesh_keys import MeshKeys

TENANT = TenantId(SystemIds().uuid())
OTHER = TenantId(SystemIds().uuid())
KEY = SystemIds().uuid()
KEY_TEXT = from_uuid("key", KEY)


def tenant_text(tenant: TenantId = TENANT) -> str:
    return from_uuid("tenant", tenant)


def stamp(time: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(time)
    return written


def verified(
    subject: str = KEY_TEXT, *, issued: datetime = NOON, api_key: str | None = None, secret_time: datetime | None = None
) -> VerifiedToken:
    principal = Principal(
        tenant=TENANT,
        subject=subject,
        roles=frozenset({Role.ADMIN}),
        api_key=api_key,
        secret_time=None if secret_time is None else secret_time.timestamp(),
    )
    return VerifiedToken(principal=principal, issued=issued.timestamp(), expires=issued.timestamp() + 900)


def revoked(subject: str = KEY_TEXT, *, at: datetime = NOON) -> pb.RevokedSubject:
    return pb.RevokedSubject(tenant_id=tenant_text(), subject=subject, revoke_time=stamp(at))


def whole(version: int = 1, **state: object) -> pb.WatchGuardResponse:
    return pb.WatchGuardResponse(version=version, reset=True, complete=True, **state)  # type: ignore[arg-type]


def test_a_feed_that_heard_nothing_lets_nobody_in() -> None:
    feed = GuardFeed(clock=FakeClock())
    with pytest.raises(GuardUnknown) as refused:
        feed.check(verified())
    assert (refused.value.kind, refused.value.retry_after) == (ErrorKind.UNAVAILABLE, timedelta(seconds=1))
    feed.take(pb.WatchGuardResponse(version=1, reset=True))  # the whole state is on its way
    with pytest.raises(GuardUnknown):
        feed.check(verified())
    assert feed.age() == float("inf")
    feed.take(pb.WatchGuardResponse(version=1, complete=True))
    feed.check(verified())


@pytest.mark.parametrize(("subject", "api_key"), [(KEY_TEXT, None), ("svc_1", KEY_TEXT)], ids=["key", "account"])
def test_a_token_from_before_the_revocation_is_refused_and_a_later_one_is_not(
    subject: str, api_key: str | None
) -> None:
    feed = GuardFeed(clock=FakeClock())
    feed.take(whole(revoked=[revoked()]))
    with pytest.raises(TokenRevoked):
        feed.check(verified(subject, api_key=api_key))
    feed.check(verified(subject, api_key=api_key, issued=NOON + timedelta(seconds=1)))


@pytest.mark.parametrize(("subject", "api_key"), [(KEY_TEXT, None), ("svc_1", KEY_TEXT)], ids=["key", "account"])
def test_tokens_of_a_key_are_told_apart_by_since_when_it_has_its_secret(subject: str, api_key: str | None) -> None:
    rotated = NOON + timedelta(microseconds=3)
    feed = GuardFeed(clock=FakeClock())
    feed.take(whole(revoked=[revoked(at=rotated)]))
    feed.check(verified(subject, api_key=api_key, secret_time=rotated))
    for issued in (NOON, NOON + timedelta(seconds=9)):
        with pytest.raises(TokenRevoked):
            feed.check(verified(subject, api_key=api_key, secret_time=rotated - timedelta.resolution, issued=issued))


def test_a_disabled_account_ends_whatever_its_keys_are() -> None:
    feed = GuardFeed(clock=FakeClock())
    feed.take(whole(revoked=[revoked("svc_1")]))
    with pytest.raises(TokenRevoked):
        feed.check(verified("svc_1", api_key=KEY_TEXT, secret_time=NOON))


def test_tokens_of_a_person_are_told_apart_by_since_when_they_have_the_roles_in_them(tmp_path: Path) -> None:
    clock = FakeClock()
    changed = clock.now() + timedelta(microseconds=3)
    feed, keys = GuardFeed(clock=clock), MeshKeys.make(tmp_path, clock=clock)
    feed.take(whole(revoked=[revoked("user_1", at=changed)]))
    tokens = TokenVerifier(KeySetFile(keys.jwks_path, clock=clock), clock=clock)

    def token(roles_time: datetime) -> VerifiedToken:
        """Issued in one second with the change, before or after it."""
        roles = frozenset({Role.ADMIN})
        ann = Principal(tenant=TENANT, subject="user_1", roles=roles, roles_time=roles_time.timestamp())
        signer = TokenSigner(keys.access_key, clock=clock)
        return tokens.verify(signer.sign(ann, life=timedelta(minutes=5), token_id="t"))

    feed.check(token(changed))
    with pytest.raises(TokenRevoked):
        feed.check(token(changed - timedelta.resolution))
    clock.advance(seconds=2)  # of the roles that another replica read just before they changed
    with pytest.raises(TokenRevoked):
        feed.check(token(changed - timedelta.resolution))


@pytest.mark.parametrize("state", ["UNSPECIFIED", "SUSPENDED", "DELETING", "DELETED"])
def test_a_tenant_that_is_not_active_is_refused(state: str) -> None:
    feed = GuardFeed(clock=FakeClock())
    number = tenant_pb2.TenantState.Value(f"TENANT_STATE_{state}")
    feed.take(whole(tenants=[pb.GuardedTenant(tenant_id=tenant_text(), state=number)]))
    with pytest.raises(TenantSuspended):
        feed.check(verified())
    feed.take(
        pb.WatchGuardResponse(
            version=2,
            complete=True,
            tenants=[pb.GuardedTenant(tenant_id=tenant_text(), state=tenant_pb2.TENANT_STATE_ACTIVE)],
        )
    )
    feed.check(verified())


def test_quotas_and_rules_of_a_tenant_are_known() -> None:
    feed = GuardFeed(clock=FakeClock())
    tenant = pb.GuardedTenant(
        tenant_id=tenant_text(),
        state=tenant_pb2.TENANT_STATE_ACTIVE,
        quotas=tenant_pb2.TenantQuotas(max_agents=3),
        security_policy=tenant_pb2.SecurityPolicy(
            allowed_networks=["10.0.0.0/8"], archive_after_days=30, delete_runs_after_days=365
        ),
        residency_region="eu",
    )
    feed.take(whole(tenants=[tenant]))
    known = feed.tenant(TENANT)
    assert known is not None
    assert (known.security_policy.archive_after_days, known.security_policy.delete_runs_after_days) == (30, 365)
    assert (known.state, known.quotas.max_agents, known.quotas.rate_factor) == (TenantState.ACTIVE, 3, 1.0)
    assert (known.security_policy.allowed_networks, known.residency_region) == (("10.0.0.0/8",), "eu")


def test_a_key_is_verified_by_its_hashes_and_forgotten_when_it_ends() -> None:
    feed = GuardFeed(clock=FakeClock())
    new, old = SecretHash.of("new", salt=bytes(16)), SecretHash.of("old", salt=bytes(16))
    key = pb.GuardedKey(
        api_key_id=KEY_TEXT,
        tenant_id=tenant_text(),
        salt=new.salt,
        digest=new.digest,
        roles=[identity_pb2.ROLE_ADMIN, 99],  # type: ignore[list-item]
        scopes=["sessions.read"],
        expire_time=stamp(NOON + timedelta(hours=1)),
        previous_salt=old.salt,
        previous_digest=old.digest,
        previous_expire_time=stamp(NOON + timedelta(minutes=1)),
    )
    feed.take(whole(keys=[key]))
    known = feed.key(KEY)
    assert known is not None
    assert (known.roles, known.scopes) == (frozenset({Role.ADMIN}), frozenset({"sessions.read"}))
    assert known.fits("new", now=NOON)
    assert known.fits("old", now=NOON)
    assert not known.fits("old", now=NOON + timedelta(minutes=1))
    assert not known.fits("new", now=NOON + timedelta(hours=1))
    assert not known.fits("other", now=NOON)
    assert "digest" not in repr(known)
    feed.take(pb.WatchGuardResponse(version=2, complete=True, ended_keys=[ended()]))
    assert feed.key(KEY) is None


def ended() -> pb.EndedKey:
    return pb.EndedKey(api_key_id=KEY_TEXT, tenant_id=tenant_text())


def test_a_key_that_ends_and_was_never_known_here_touches_its_own_tenant_alone() -> None:
    feed = GuardFeed(clock=FakeClock())
    feed.take(whole())
    told: list[TenantId | None] = []
    with feed.changed(told.append):
        feed.take(pb.WatchGuardResponse(version=2, complete=True, ended_keys=[ended()]))
    assert told == [TENANT]


def test_more_keys_than_the_bound_are_not_kept() -> None:
    feed = GuardFeed(clock=FakeClock(), most_keys=1)
    ids = [SystemIds().uuid() for _ in range(3)]
    keys = [pb.GuardedKey(api_key_id=from_uuid("key", key), tenant_id=tenant_text(), digest=b"d") for key in ids]
    feed.take(whole(keys=keys))
    assert [feed.key(key) is not None for key in ids] == [True, False, False]


def test_what_was_known_holds_until_a_whole_state_has_arrived() -> None:
    feed = GuardFeed(clock=FakeClock())
    feed.take(whole(revoked=[revoked()]))
    feed.take(pb.WatchGuardResponse(version=5, reset=True))
    with pytest.raises(TokenRevoked):
        feed.check(verified())
    assert feed.version == 1
    feed.restart()  # the stream broke
    feed.take(pb.WatchGuardResponse(version=1, complete=True))
    with pytest.raises(TokenRevoked):
        feed.check(verified())
    feed.take(pb.WatchGuardResponse(version=5, reset=True))
    feed.take(pb.WatchGuardResponse(version=5, complete=True))
    feed.check(verified())
    assert feed.version == 5


def test_old_revocations_are_forgotten() -> None:
    clock = FakeClock()
    feed = GuardFeed(clock=clock)
    feed.take(whole(revoked=[revoked()]))
    clock.advance(seconds=21 * 60)
    feed.take(pb.WatchGuardResponse(version=1, complete=True))
    feed.check(verified())


def test_more_revocations_than_are_kept_end_all_tokens_of_that_tenant_from_before_them() -> None:
    clock = FakeClock()
    feed = GuardFeed(clock=clock, most_revoked=3)
    later = NOON + timedelta(seconds=2)
    feed.take(whole(revoked=[revoked(f"key_{number}") for number in range(3)]))
    feed.check(verified("key_9"))
    feed.take(pb.WatchGuardResponse(version=2, complete=True, revoked=[revoked("key_3", at=later)]))
    for subject in ("key_0", "key_3", "key_9"):
        with pytest.raises(TokenRevoked):
            feed.check(verified(subject, issued=later))
        feed.check(verified(subject, issued=later + timedelta(seconds=1)))
    # What an earlier process kept says the same, one more revocation counts as ever, and it all ends some time.
    restarted = GuardFeed(clock=clock, most_revoked=3)
    restarted.recall(feed.to_keep())
    with pytest.raises(TokenRevoked):
        restarted.check(verified("key_9", issued=later))
    after = later + timedelta(seconds=5)
    feed.take(pb.WatchGuardResponse(version=3, complete=True, revoked=[revoked("key_5", at=after)]))
    with pytest.raises(TokenRevoked):
        feed.check(verified("key_5", issued=after))
    feed.check(verified("key_9", issued=after))
    clock.advance(seconds=21 * 60)
    feed.take(pb.WatchGuardResponse(version=4, complete=True))
    feed.check(verified("key_9"))


def test_a_tenant_whose_rules_did_not_fit_is_not_let_in_without_them() -> None:
    feed = GuardFeed(clock=FakeClock(), most_tenants=1)
    ruled = [
        pb.GuardedTenant(
            tenant_id=tenant_text(tenant),
            state=tenant_pb2.TENANT_STATE_ACTIVE,
            quotas=tenant_pb2.TenantQuotas(max_agents=1),
        )
        for tenant in (OTHER, TENANT)
    ]
    feed.take(whole(tenants=ruled[:1]))
    feed.check(verified())  # no rules
    feed.take(pb.WatchGuardResponse(version=2, complete=True, tenants=ruled))
    assert feed.ruled() == (OTHER,)
    assert feed.is_cut
    with pytest.raises(GuardUnknown):
        feed.check(verified())
    feed.take(whole(version=3, tenants=ruled[1:]))
    feed.check(verified())


def test_listeners_are_told_which_tenant_changed() -> None:
    feed = GuardFeed(clock=FakeClock())
    heard: list[TenantId | None] = []
    with feed.changed(heard.append):
        feed.take(whole())
        feed.take(pb.WatchGuardResponse(version=2, complete=True, revoked=[revoked()]))
        feed.take(pb.WatchGuardResponse(version=2, complete=True))
    feed.take(pb.WatchGuardResponse(version=3, complete=True, revoked=[revoked()]))
    assert heard == [None, TENANT]


def test_age_counts_from_the_last_word() -> None:
    clock = FakeClock()
    feed = GuardFeed(clock=clock)
    feed.take(whole())
    clock.advance(seconds=3)
    assert feed.age() == 3
    feed.take(pb.WatchGuardResponse(version=1, complete=True))
    assert feed.age() == 0


async def test_a_broken_stream_is_opened_again_from_the_version_that_is_known() -> None:
    clock = FakeClock()
    feed = GuardFeed(clock=clock)
    asked: list[int] = []
    third = asyncio.Event()

    async def source(after_version: int) -> AsyncGenerator[pb.WatchGuardResponse]:
        asked.append(after_version)
        if len(asked) == 2:
            raise Unavailable("gateway")
        yield whole(version=len(asked))
        if len(asked) == 1:
            return  # the gateway closed it
        third.set()
        await asyncio.Event().wait()

    follow = asyncio.create_task(FollowGuard(feed, source, clock=clock, dice=Random(1))())
    for _ in range(2):
        await clock.until_someone_sleeps()
        clock.advance(seconds=1)
    async with asyncio.timeout(5):
        await third.wait()
    assert (asked, feed.version) == ([0, 1, 1], 3)
    follow.cancel()
    await asyncio.gather(follow, return_exceptions=True)


async def test_a_silent_gateway_counts_as_away() -> None:
    clock = FakeClock()
    asked: list[int] = []

    async def source(after_version: int) -> AsyncGenerator[pb.WatchGuardResponse]:
        asked.append(after_version)
        await asyncio.Event().wait()
        yield whole()

    follow = FollowGuard(GuardFeed(clock=clock), source, clock=clock, dice=Random(1), silent_seconds=0.01)
    task = asyncio.create_task(follow())
    for _ in range(2):
        await clock.until_someone_sleeps()
        clock.advance(seconds=1)
    await clock.until_someone_sleeps()
    assert asked == [0, 0, 0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
