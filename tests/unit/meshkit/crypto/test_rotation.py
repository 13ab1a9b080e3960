"""Rotation of the key-encryption key: by a file, between providers, with what can go wrong on the way."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto import key_service
from services.meshkit.crypto.bounded import BoundedWrapper
from services.meshkit.crypto.errors import KekFileUnsafe, KeyDestroyed, KeyServiceAway, KeyServiceSettings, SealBroken
from services.meshkit.crypto.kek_file import KekFile, add_kek, create_kek_file, drop_old_keks, kek_ids
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.crypto.vault_transit import token_of
from services.meshkit.settings import ServiceSettings
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.data_keys import AwayWrapper, MemoryDataKeys

TENANTS = [TenantId(UUID(int=number)) for number in (1, 2, 3)]


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def a_ring(keys: MemoryDataKeys, wrapper: KeyWrapper) -> KeyRing:
    return KeyRing(keys, wrapper, clock=FakeClock(), ids=SystemIds())


def a_rewrap(keys: MemoryDataKeys, wrapper: KeyWrapper) -> Rewrap:
    return Rewrap(keys, wrapper, service="test", clock=FakeClock())


async def test_a_new_key_in_front_wraps_at_once_and_the_old_ones_open(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    [first] = kek_ids(path)
    running = await KekFile.read(path)
    wrapped = await running.wrap(b"d" * 32, context=b"c")
    second = add_kek(path)
    assert kek_ids(path) == [second, first]
    assert path.stat().st_mode & 0o777 == 0o600
    assert (await running.mark())[1:].hex() == second
    assert (await running.wrap(b"d" * 32, context=b"c")).startswith(await running.mark())
    assert await running.unwrap(wrapped, context=b"c") == b"d" * 32


async def test_a_replica_that_has_not_looked_opens_what_another_wrapped_with_the_new_key(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    here, there = await KekFile.read(path), await KekFile.read(path)
    add_kek(path)
    assert await there.unwrap(await here.wrap(b"d" * 32, context=b"c"), context=b"c") == b"d" * 32


async def test_a_file_that_breaks_while_we_run_leaves_the_good_keys(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek_file(path)
    running = await KekFile.read(path)
    wrapped = await running.wrap(b"d" * 32, context=b"c")
    path.write_text("nonsense")
    assert await running.unwrap(await running.wrap(b"e" * 32, context=b"c"), context=b"c") == b"e" * 32
    path.unlink()
    assert await running.unwrap(wrapped, context=b"c") == b"d" * 32
    with pytest.raises(KekFileUnsafe):
        add_kek(path)


async def test_data_keys_are_wrapped_anew_payloads_stay_and_the_old_key_can_go(tmp_path: Path) -> None:
    path, keys = tmp_path / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    wrapper = await KekFile.read(path)
    envelopes = {tenant: await a_ring(keys, wrapper).seal(tenant, b"x", aad=b"row") for tenant in TENANTS}
    add_kek(path)
    rewrap = a_rewrap(keys, wrapper)
    assert await rewrap.sweep() == len(TENANTS)
    assert await rewrap.sweep() == 0
    assert len(drop_old_keks(path)) == 1
    fresh = a_ring(keys, await KekFile.read(path))
    assert [await fresh.open(tenant, envelopes[tenant], aad=b"row") for tenant in TENANTS] == [b"x"] * len(TENANTS)


async def test_a_key_destroyed_while_it_is_wrapped_anew_stays_destroyed(tmp_path: Path) -> None:
    path, keys = tmp_path / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    wrapper = await KekFile.read(path)
    ring = a_ring(keys, wrapper)
    envelope = await ring.seal(TENANTS[0], b"x", aad=b"row")
    add_kek(path)
    sweep = asyncio.create_task(a_rewrap(keys, wrapper).sweep())
    await asyncio.sleep(0)
    keys.erase(TENANTS[0])
    assert await sweep == 0
    ring.forget(TENANTS[0])
    with pytest.raises(KeyDestroyed):
        await ring.open(TENANTS[0], envelope, aad=b"row")


async def test_one_key_that_cannot_be_opened_does_not_stop_the_others(tmp_path: Path) -> None:
    path, keys = tmp_path / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    wrapper = await KekFile.read(path)
    for tenant in TENANTS:
        await a_ring(keys, wrapper).seal(tenant, b"x", aad=b"row")
    damaged = next(iter(keys.rows.values()))
    damaged.wrapped = (damaged.wrapped or b"")[:-1] + b"?"
    add_kek(path)
    assert await a_rewrap(keys, wrapper).sweep() == len(TENANTS) - 1
    assert await keys.count_otherwise(await wrapper.mark()) == 1


COMMANDS = st.lists(
    st.tuples(st.sampled_from(["seal", "open", "rotate", "sweep", "drop", "restart", "destroy"]), st.integers(0, 2)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(commands=COMMANDS)
async def test_whatever_happens_in_whatever_order_what_was_not_destroyed_opens(
    tmp_path_factory: pytest.TempPathFactory, commands: list[tuple[str, int]]
) -> None:
    path, keys = tmp_path_factory.mktemp("rotation") / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    wrapper = await KekFile.read(path)
    ring = a_ring(keys, wrapper)
    alive: list[tuple[TenantId, bytes]] = []
    gone: list[tuple[TenantId, bytes]] = []
    for command, number in commands:
        tenant = TENANTS[number]
        if command == "seal":
            alive.append((tenant, await ring.seal(tenant, b"x", aad=b"row")))
        elif command == "rotate":
            add_kek(path)
        elif command == "sweep":
            await a_rewrap(keys, wrapper).sweep()
        elif command == "drop" and not await keys.count_otherwise(await wrapper.mark()):
            drop_old_keks(path)
        elif command == "restart":
            wrapper = await KekFile.read(path)
            ring = a_ring(keys, wrapper)
        elif command == "destroy":
            keys.erase(tenant)
            ring.forget(tenant)
            gone += [one for one in alive if one[0] == tenant]
            alive = [one for one in alive if one[0] != tenant]
        for owner, envelope in alive:
            assert await ring.open(owner, envelope, aad=b"row") == b"x"
        for owner, envelope in gone:
            with pytest.raises(KeyDestroyed):
                await ring.open(owner, envelope, aad=b"row")


class XorWrapper:
    """What a cloud's key service would be: a plug-in of somebody else's."""

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        return b"v7|" + bytes(byte ^ 0x55 for byte in context + key)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        plain = bytes(byte ^ 0x55 for byte in wrapped.removeprefix(b"v7|"))
        if not plain.startswith(context):
            raise SealBroken("not here")
        return plain.removeprefix(context)

    async def mark(self) -> bytes:
        return b"v7|"


OPTIONS: list[Mapping[str, str]] = []


@asynccontextmanager
async def xor(options: Mapping[str, str]) -> AsyncGenerator[KeyWrapper]:
    OPTIONS.append(options)
    yield XorWrapper()


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*, group: str) -> EntryPoints:
        assert group == "comitia.key_wrappers"
        return EntryPoints([EntryPoint("xor", f"{__name__}:xor", group)])

    monkeypatch.setattr(key_service, "entry_points", found)
    monkeypatch.setattr(EntryPoint, "load", lambda _self: xor)


def a_settings(**given: Any) -> ServiceSettings:
    return ServiceSettings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "database_url": "postgresql://x/y",
            "maintenance_database_url": "postgresql://x/y",
            "jwks_path": "a",
            "workload_key_path": "b",
            "workload_jwks_path": "c",
            **given,
        }
    )


@pytest.mark.usefixtures("plug_in")
async def test_moving_from_the_file_to_a_plug_in_is_a_rotation_like_any_other(tmp_path: Path) -> None:
    path, keys = tmp_path / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    async with key_wrapper(a_settings(kek_path=path), clock=FakeClock()) as wrapper:
        envelope = await a_ring(keys, wrapper).seal(TENANTS[0], b"x", aad=b"row")
    moving = a_settings(kek_path=path, kek_provider="xor", kek_options='{"region": "eu"}')
    async with key_wrapper(moving, clock=FakeClock()) as wrapper:
        assert OPTIONS[-1] == {"region": "eu"}
        assert await a_ring(keys, wrapper).open(TENANTS[0], envelope, aad=b"row") == b"x"
        assert await a_rewrap(keys, wrapper).sweep() == 1
    async with key_wrapper(a_settings(kek_provider="xor"), clock=FakeClock()) as wrapper:
        assert await a_ring(keys, wrapper).open(TENANTS[0], envelope, aad=b"row") == b"x"
    async with key_wrapper(a_settings(kek_path=path), clock=FakeClock()) as wrapper:
        with pytest.raises(SealBroken, match="xor"):
            await a_ring(keys, wrapper).open(TENANTS[0], envelope, aad=b"row")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "kek_path"),
        ({"kek_provider": "vault"}, "vault_url"),
        ({"kek_provider": "vault", "vault_url": "https://v"}, "vault_token"),
        ({"kek_provider": "vault", "vault_url": "http://vault:8200", "vault_token": "t"}, "https"),
        ({"kek_provider": "cloudy"}, "there are: file, vault, xor"),
        ({"kek_provider": "xor", "kek_options": "[1]"}, "kek_options"),
    ],
)
@pytest.mark.usefixtures("plug_in")
async def test_settings_that_name_no_key_service_are_refused_at_the_start(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(KeyServiceSettings, match=sentence):
        async with key_wrapper(a_settings(**given), clock=FakeClock()):
            pass


class SilentWrapper(XorWrapper):
    def __init__(self) -> None:
        self.asked = 0

    async def mark(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(60)
        return b""


async def test_a_silent_key_service_is_given_up_and_then_left_alone_for_a_moment() -> None:
    clock, silent = FakeClock(), SilentWrapper()
    bounded = BoundedWrapper(silent, name="silent", clock=clock, seconds=0.01)
    with pytest.raises(KeyServiceAway, match="silent"):
        await bounded.mark()
    with pytest.raises(KeyServiceAway):
        await bounded.mark()
    assert silent.asked == 1
    clock.advance(seconds=1.1)
    with pytest.raises(KeyServiceAway):
        await bounded.mark()
    assert silent.asked == 2


async def test_a_wrong_key_does_not_make_the_service_look_away() -> None:
    bounded = BoundedWrapper(XorWrapper(), name="xor", clock=FakeClock())
    with pytest.raises(SealBroken):
        await bounded.unwrap(b"v7|junk", context=b"c")
    assert await bounded.mark() == b"v7|"


async def test_a_key_service_that_comes_back_finishes_the_rotation(tmp_path: Path) -> None:
    path, keys = tmp_path / "kek", MemoryDataKeys(now)
    create_kek_file(path)
    wrapper = AwayWrapper(await KekFile.read(path))
    await a_ring(keys, wrapper).seal(TENANTS[0], b"x", aad=b"row")
    add_kek(path)
    clock = FakeClock()
    work = asyncio.create_task(Rewrap(keys, wrapper, service="test", clock=clock)())
    try:
        wrapper.is_away = True
        await clock.until_someone_sleeps()
        wrapper.is_away = False
        clock.advance(seconds=31)
        async with asyncio.timeout(5):
            while await keys.count_otherwise(await wrapper.mark()):  # noqa: ASYNC110  # the work has no event
                await asyncio.sleep(0.01)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def test_a_token_that_its_agent_renewed_is_used_for_the_next_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    read = token_of(token=None, path=file)
    assert read().reveal() == "first"
    file.write_text("second\n")
    assert read().reveal() == "second"
