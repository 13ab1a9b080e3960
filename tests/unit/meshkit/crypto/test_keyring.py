"""Sealing with fakes for the store; the wrapper is the real key file."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto import keyring as module
from services.meshkit.crypto.commitments import commit, new_salts, verifies
from services.meshkit.crypto.errors import KekFileUnsafe, KeyDestroyed, KeyNotLoaded, KeyServiceAway, SealBroken
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import ENVELOPE_BYTES, KeyRing
from services.meshkit.crypto.ports import KeyWrapper
from tests.support.data_keys import AwayWrapper, MemoryDataKeys
from tests.support.examples import examples

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


@dataclass
class StoppedClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Rig:
    keys: MemoryDataKeys
    clock: StoppedClock
    wrapper: KeyWrapper

    def ring(self, *, capacity: int = 10) -> KeyRing:
        return KeyRing(self.keys, self.wrapper, clock=self.clock, ids=SystemIds(), capacity=capacity)

    @property
    def wrapped(self) -> dict[tuple[TenantId, UUID], bytes | None]:
        return {key: row.wrapped for key, row in self.keys.rows.items()}


def a_rig() -> Rig:
    clock = StoppedClock()
    return Rig(MemoryDataKeys(clock.now), clock, KekFile({b"k" * 8: b"s" * 32}))


@settings(max_examples=examples(60), deadline=None)
@given(plaintext=st.binary(max_size=2_000), aad=st.binary(max_size=50))
async def test_what_was_sealed_opens(plaintext: bytes, aad: bytes) -> None:
    ring = a_rig().ring()
    envelope = await ring.seal(ANNA, plaintext, aad=aad)
    assert len(envelope) == len(plaintext) + ENVELOPE_BYTES
    assert await ring.open(ANNA, envelope, aad=aad) == plaintext


@settings(max_examples=examples(60), deadline=None)
@given(plaintext=st.binary(max_size=200), aad=st.binary(max_size=20), other=st.binary(max_size=20))
async def test_it_opens_only_in_its_place(plaintext: bytes, aad: bytes, other: bytes) -> None:
    ring = a_rig().ring()
    envelope = await ring.seal(ANNA, plaintext, aad=aad)
    if other != aad:
        with pytest.raises(SealBroken):
            await ring.open(ANNA, envelope, aad=other)
    with pytest.raises(KeyDestroyed):
        await ring.open(BERT, envelope, aad=aad)


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data(), plaintext=st.binary(max_size=100))
async def test_a_cut_or_changed_envelope_is_refused(data: st.DataObject, plaintext: bytes) -> None:
    ring = a_rig().ring()
    envelope = await ring.seal(ANNA, plaintext, aad=b"row")
    cut = data.draw(st.integers(0, len(envelope) - 1))
    with pytest.raises(SealBroken):
        await ring.open(ANNA, envelope[:cut], aad=b"row")
    place = data.draw(st.integers(0, len(envelope) - 1))
    changed = bytearray(envelope)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((SealBroken, KeyDestroyed)):
        await ring.open(ANNA, bytes(changed), aad=b"row")


async def test_a_key_copied_to_another_tenant_does_not_open() -> None:
    rig = a_rig()
    envelope = await rig.ring().seal(ANNA, b"secret", aad=b"row")
    [((_, key_id), row)] = rig.keys.rows.items()
    rig.keys.rows[BERT, key_id] = row
    with pytest.raises(SealBroken):
        await rig.ring().open(BERT, envelope, aad=b"row")


async def test_two_envelopes_of_one_text_differ() -> None:
    ring = a_rig().ring()
    assert await ring.seal(ANNA, b"same", aad=b"") != await ring.seal(ANNA, b"same", aad=b"")


async def test_concurrent_first_seals_make_one_key() -> None:
    rig = a_rig()
    ring = rig.ring()
    await asyncio.gather(*(ring.seal(ANNA, b"x", aad=b"") for _ in range(20)))
    assert len(rig.keys.rows) == 1


async def test_another_process_opens_with_the_stored_key() -> None:
    rig = a_rig()
    envelope = await rig.ring().seal(ANNA, b"hello", aad=b"row")
    assert await rig.ring().open(ANNA, envelope, aad=b"row") == b"hello"


async def test_a_destroyed_key_opens_nothing_once_it_is_forgotten_and_the_next_seal_makes_a_new_one() -> None:
    rig = a_rig()
    ring = rig.ring()
    envelope = await ring.seal(ANNA, b"hello", aad=b"row")
    berts = await ring.seal(BERT, b"hello", aad=b"row")
    rig.keys.erase(ANNA)
    ring.forget(ANNA)
    assert ring.tenants() == {BERT}
    assert ring.open_sync(BERT, berts, aad=b"row") == b"hello"
    with pytest.raises(KeyDestroyed):
        await ring.open(ANNA, envelope, aad=b"row")
    fresh = await ring.seal(ANNA, b"again", aad=b"row")
    assert await ring.open(ANNA, fresh, aad=b"row") == b"again"


async def test_a_process_that_hears_nothing_forgets_a_destroyed_key_within_its_ttl() -> None:
    rig = a_rig()
    there = rig.ring()
    envelope = await rig.ring().seal(ANNA, b"hello", aad=b"row")
    await there.open(ANNA, envelope, aad=b"row")
    rig.keys.erase(ANNA)
    rig.clock.seconds = 61
    with pytest.raises(KeyDestroyed):
        await there.open(ANNA, envelope, aad=b"row")
    await there.seal(ANNA, b"new", aad=b"row")
    assert sum(row is not None for row in rig.wrapped.values()) == 1


async def test_the_synchronous_way_needs_a_loaded_key() -> None:
    ring = a_rig().ring()
    with pytest.raises(KeyNotLoaded):
        ring.seal_sync(ANNA, b"x", aad=b"")
    await ring.load(ANNA, BERT)
    assert ring.open_sync(BERT, ring.seal_sync(BERT, b"x", aad=b""), aad=b"") == b"x"


async def test_a_key_that_goes_stale_right_after_load_still_seals() -> None:
    rig = a_rig()
    ring = rig.ring()
    await ring.load(ANNA)
    rig.clock.seconds = 60
    assert ring.open_sync(ANNA, ring.seal_sync(ANNA, b"x", aad=b""), aad=b"") == b"x"
    rig.clock.seconds = 65
    with pytest.raises(KeyNotLoaded):
        ring.seal_sync(ANNA, b"x", aad=b"")


async def test_the_cache_is_bounded() -> None:
    rig = a_rig()
    ring = rig.ring(capacity=2)
    envelopes = {TenantId(UUID(int=n)): await ring.seal(TenantId(UUID(int=n)), b"x", aad=b"") for n in range(1, 6)}
    for tenant, envelope in envelopes.items():
        assert await ring.open(tenant, envelope, aad=b"") == b"x"
    with pytest.raises(KeyNotLoaded):
        ring.seal_sync(ANNA, b"x", aad=b"")


async def test_a_key_is_replaced_before_its_nonces_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES_AT_A_TIME", 2)
    monkeypatch.setattr(module, "_MESSAGES_PER_KEY", 6)
    rig = a_rig()
    here, there = rig.ring(), rig.ring()
    envelopes = [await ring.seal(ANNA, b"x", aad=b"") for _ in range(10) for ring in (here, there)]
    per_key = Counter(envelope[1:17] for envelope in envelopes)
    assert len(rig.keys.rows) >= 4
    assert max(per_key.values()) <= 6, "all processes together stay below the bound"
    assert [await here.open(ANNA, envelope, aad=b"") for envelope in envelopes] == [b"x"] * 20


async def test_what_was_sealed_before_a_restart_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES_AT_A_TIME", 2)
    monkeypatch.setattr(module, "_MESSAGES_PER_KEY", 4)
    rig = a_rig()
    for _ in range(4):
        await rig.ring().seal(ANNA, b"x", aad=b"")
    assert len(rig.keys.rows) == 2


async def test_a_burst_between_two_loads_is_sealed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES_AT_A_TIME", 2)
    ring = a_rig().ring()
    await ring.load(ANNA)
    envelopes = [ring.seal_sync(ANNA, b"x", aad=b"") for _ in range(5)]
    assert [ring.open_sync(ANNA, envelope, aad=b"") for envelope in envelopes] == [b"x"] * 5


async def test_a_key_of_90_days_opens_and_no_longer_seals() -> None:
    rig = a_rig()
    ring = rig.ring()
    old = await ring.seal(ANNA, b"old", aad=b"")
    rig.clock.seconds = timedelta(days=90).total_seconds()
    new = await ring.seal(ANNA, b"new", aad=b"")
    assert (old[1:17] != new[1:17], len(rig.keys.rows)) == (True, 2)
    assert await rig.ring().open(ANNA, old, aad=b"") == b"old"


async def test_known_keys_go_on_while_the_key_service_is_away_but_not_for_ever() -> None:
    rig = a_rig()
    away = AwayWrapper(rig.wrapper)
    rig.wrapper = away
    ring = rig.ring()
    envelope = await ring.seal(ANNA, b"x", aad=b"")
    away.is_away = True
    with pytest.raises(KeyServiceAway) as refused:
        await ring.seal(BERT, b"x", aad=b"")
    assert refused.value.retry_after is not None
    for minute in range(60):
        rig.clock.seconds = 60.0 * minute
        assert await ring.open(ANNA, envelope, aad=b"") == b"x"
        await ring.seal(ANNA, b"y", aad=b"")
    rig.clock.seconds = 3660.0
    with pytest.raises(KeyServiceAway):
        await ring.open(ANNA, envelope, aad=b"")
    away.is_away = False
    assert await ring.open(ANNA, envelope, aad=b"") == b"x"


async def test_an_old_key_goes_on_sealing_while_no_new_one_can_be_wrapped() -> None:
    rig = a_rig()
    away = AwayWrapper(rig.wrapper)
    rig.wrapper = away
    ring = rig.ring()
    await ring.seal(ANNA, b"x", aad=b"")
    rig.clock.seconds = timedelta(days=91).total_seconds()
    other = rig.ring()
    await other.open(ANNA, await other.seal(ANNA, b"x", aad=b""), aad=b"")
    assert len(rig.keys.rows) == 2
    rig.clock.seconds += timedelta(days=91).total_seconds()
    await other.open(ANNA, await other.seal(ANNA, b"x", aad=b""), aad=b"")
    assert len(rig.keys.rows) == 3
    # The key service goes just as the next one is due; what is in memory seals for the hour that it may.
    rig.clock.seconds += timedelta(days=91).total_seconds() - 3000
    await other.seal(ANNA, b"x", aad=b"")
    before = len(rig.keys.rows)
    away.is_away = True
    rig.clock.seconds += 2900
    await other.seal(ANNA, b"x", aad=b"")
    assert len(rig.keys.rows) == before


async def test_the_key_file_is_private_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    old_text = path.read_text()
    create_kek_file(path)
    assert path.read_text() == old_text
    wrapped = await (await KekFile.read(path)).wrap(b"d" * 32, context=b"c")
    path.write_text("0011223344556677 " + "QUFB" * 10 + "QUE=\n" + old_text)
    rotated = await KekFile.read(path)
    assert await rotated.unwrap(wrapped, context=b"c") == b"d" * 32
    with pytest.raises(SealBroken):
        await rotated.unwrap(wrapped, context=b"other")
    with pytest.raises(SealBroken):
        await KekFile({b"x" * 8: b"y" * 32}).unwrap(wrapped, context=b"c")


@pytest.mark.parametrize("content", ["", "nonsense", "zz QUFB", "00112233 QUFB", "0011223344556677 QUFB"])
async def test_a_wrong_key_file_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kek"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KekFileUnsafe, match="kek"):
        await KekFile.read(path)


async def test_a_key_file_that_its_owner_gave_to_our_group_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    path.chmod(0o440)
    owner = path.stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    assert await KekFile.read(path)
    path.chmod(0o444)
    with pytest.raises(KekFileUnsafe, match="others may read"):
        await KekFile.read(path)


async def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    path.chmod(0o640)
    with pytest.raises(KekFileUnsafe, match="chmod 600"):
        await KekFile.read(path)
    with pytest.raises(KekFileUnsafe, match="cannot read"):
        await KekFile.read(tmp_path / "missing")


@given(plaintext=st.binary(max_size=500))
def test_a_commitment_verifies_with_its_salt_and_text_only(plaintext: bytes) -> None:
    salt, other = new_salts(2)
    made = commit(salt, plaintext)
    assert len(made) == 32
    assert verifies(made, salt, plaintext)
    assert not verifies(made, salt, plaintext + b"x")
    assert not verifies(made, other, plaintext)
    assert not verifies(made, salt[:-1], salt[-1:] + plaintext)
