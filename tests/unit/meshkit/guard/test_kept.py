"""A service that starts while the gateway is away goes by what it heard before, and by nothing else."""

from datetime import timedelta
from pathlib import Path

import pytest

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1 import identity_pb2, tenant_pb2
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.core.key_secret import SecretHash
from services.meshkit.grpc.identity import VerifiedToken
from services.meshkit.guard.convert import timestamp
from services.meshkit.guard.errors import GuardUnknown, TenantSuspended, TokenRevoked
from services.meshkit.guard.feed import REMEMBER_REVOKED_SECONDS, GuardFeed
from services.meshkit.guard.kept import KeptGuard
from services.meshkit.testing.fake_clock import NOON, FakeClock

RULED, SUSPENDED, PLAIN = (TenantId(SystemIds().uuid()) for _ in range(3))
KEY = SystemIds().uuid()
KEY_TEXT = from_uuid("key", KEY)


def token(tenant: TenantId, subject: str = "svc_1", *, roles_time: float | None = None) -> VerifiedToken:
    principal = Principal(tenant=tenant, subject=subject, roles=frozenset({Role.ADMIN}), roles_time=roles_time)
    return VerifiedToken(principal=principal, issued=NOON.timestamp(), expires=NOON.timestamp() + 900)


def whole_state(version: int = 7) -> pb.WatchGuardResponse:
    policy = tenant_pb2.SecurityPolicy(allowed_networks=["10.0.0.0/8"], allowed_hosts=["api.example.com"])
    secret = SecretHash.of("secret", salt=b"salt-of-the-hash")
    return pb.WatchGuardResponse(
        version=version,
        reset=True,
        complete=True,
        tenants=[
            pb.GuardedTenant(
                tenant_id=from_uuid("tenant", RULED),
                state=tenant_pb2.TENANT_STATE_ACTIVE,
                security_policy=policy,
                quotas=tenant_pb2.TenantQuotas(max_agents=3),
            ),
            pb.GuardedTenant(tenant_id=from_uuid("tenant", SUSPENDED), state=tenant_pb2.TENANT_STATE_SUSPENDED),
        ],
        revoked=[
            pb.RevokedSubject(
                tenant_id=from_uuid("tenant", PLAIN),
                subject="user_1",
                revoke_time=timestamp((NOON + timedelta(microseconds=3)).timestamp()),
            )
        ],
        keys=[
            pb.GuardedKey(
                api_key_id=KEY_TEXT,
                tenant_id=from_uuid("tenant", PLAIN),
                salt=secret.salt,
                digest=secret.digest,
                roles=[identity_pb2.ROLE_ADMIN],
            )
        ],
    )


async def kept(path: Path, clock: FakeClock) -> None:
    """What a service leaves behind that has heard the gateway."""
    feed = GuardFeed(clock=clock)
    feed.take(whole_state())
    await KeptGuard(feed, path, clock=clock).keep()


def started(path: Path, clock: FakeClock) -> GuardFeed:
    feed = GuardFeed(clock=clock)
    KeptGuard(feed, path, clock=clock).recall()
    return feed


async def test_rules_suspensions_and_revocations_outlive_the_process(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "guard" / "tools"
    await kept(path, clock)
    feed = started(path, clock)
    assert feed.allowed_networks(RULED) == ("10.0.0.0/8",)
    known = feed.tenant(RULED)
    assert known is not None
    assert (known.security_policy.allowed_hosts, known.quotas.max_agents) == (("api.example.com",), 3)
    feed.check(token(RULED))
    feed.check(token(PLAIN))
    with pytest.raises(TenantSuspended):
        feed.check(token(SUSPENDED))
    at = (NOON + timedelta(microseconds=3)).timestamp()
    feed.check(token(PLAIN, "user_1", roles_time=at))
    with pytest.raises(TokenRevoked):
        feed.check(token(PLAIN, "user_1", roles_time=at - 0.000001))
    # The gateway is asked for its whole state, and nothing here passes for its word.
    assert (feed.version, feed.age()) == (0, float("inf"))


async def test_no_key_is_kept(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "guard"
    await kept(path, clock)
    assert started(path, clock).key(KEY) is None
    written = path.read_bytes()
    assert KEY_TEXT.encode() not in written
    assert SecretHash.of("secret", salt=b"salt-of-the-hash").digest not in written
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "changed"])
async def test_without_a_whole_file_nobody_is_let_in(tmp_path: Path, harm: str) -> None:
    clock, path = FakeClock(), tmp_path / "guard"
    await kept(path, clock)
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-1], "changed": whole[:-1] + bytes([whole[-1] ^ 1])}[harm])
    with pytest.raises(GuardUnknown):
        started(path, clock).check(token(RULED))


async def test_a_file_is_believed_for_as_long_as_a_token_could_be(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "guard"
    await kept(path, clock)
    clock.advance(seconds=REMEMBER_REVOKED_SECONDS)
    started(path, clock).check(token(RULED))
    clock.advance(seconds=1)
    with pytest.raises(GuardUnknown):
        started(path, clock).check(token(RULED))


async def test_the_file_is_as_young_as_the_last_word_of_the_gateway(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "guard"
    feed = GuardFeed(clock=clock)
    keeping = KeptGuard(feed, path, clock=clock)
    await keeping.keep()
    assert not path.exists(), "there was no word yet"
    feed.take(whole_state())
    await keeping.keep()
    clock.advance(seconds=100)
    await keeping.keep()
    assert path.stat().st_mtime == NOON.timestamp(), "the gateway is silent"
    feed.take(pb.WatchGuardResponse(version=7, complete=True))
    await keeping.keep()
    assert path.stat().st_mtime == NOON.timestamp() + 100


async def test_the_gateway_goes_before_the_file(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "guard"
    await kept(path, clock)
    feed = started(path, clock)
    feed.take(pb.WatchGuardResponse(version=8, reset=True, complete=True))
    feed.check(token(SUSPENDED))
    KeptGuard(feed, path, clock=clock).recall()
    feed.check(token(SUSPENDED))
