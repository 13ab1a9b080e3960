"""What a replica keeps of the registry for its next start, and what of it is believed then."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.inference.domain.deployment import Capability, DeploymentVersion, Tier
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.rollout.rollout import RolloutState, VersionName
from services.inference.storage import registry_file
from services.inference.storage.registry_file import MOST_AGE, RegistryFile
from services.inference.usecases.judge_rollouts import JudgeRollouts
from services.inference.usecases.kept_registry import KeptRegistry
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import KnownRegistry, RegistryState
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import OPENAI
from tests.unit.inference.test_registry import INSTALLED, MemoryFeed, Records, Rollouts, a_route, a_version, held
from tests.unit.inference.test_rollout import a_rollout

KEY = "sk-of-a-tenant"
NOW = FakeClock().now()
ROLLOUT = a_rollout(
    stable=VersionName(deployment=OPENAI.name, version=0), canary=VersionName(deployment="new", version=1), route="w"
)
VERSION: DeploymentVersion = a_version(
    "new", tier=Tier.GOLD, capabilities=frozenset({Capability.TOOLS}), region="eu", base_url="https://of.a.tenant/v1"
)
STATE = RegistryState(
    version=7,
    whole=True,
    holdings={
        TENANT: replace(
            held(routes=[a_route("w", OPENAI.name)], rollouts=[ROLLOUT]),
            deployments={"new": (VERSION,)},
            unreadable=frozenset({"odd"}),
        )
    },
    keys={TENANT: {("dep_new", 1): Secret(KEY), ("dep_new", 2): None}},
)


def a_wrapper(secret: bytes = b"s" * 32) -> KekFile:
    return KekFile({b"k" * 8: secret})


def a_file(folder: Path, wrapper: KekFile | None = None) -> RegistryFile:
    return RegistryFile(folder / "inference" / "registry", wrapper or a_wrapper(), clock=FakeClock())


async def test_what_was_kept_is_known_again_and_nobody_reads_it_on_the_disk(tmp_path: Path) -> None:
    file, known = a_file(tmp_path), KnownRegistry(state=STATE, owed=((TENANT, ROLLOUT),), heard=NOW)
    assert await file.read() is None
    await file.write(known)
    assert await file.read() == known
    (kept,) = (tmp_path / "inference").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    raw = kept.read_bytes()
    for told in (KEY, "of.a.tenant", "new", str(TENANT)):
        assert told.encode() not in raw
    await file.write(known)
    assert kept.read_bytes() != raw, "sealed with a key of its own each time"


@pytest.mark.parametrize("harm", ["cut short", "one byte", "another's", "of no installation", "empty"])
async def test_what_is_damaged_or_of_others_is_refused(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, place = a_file(tmp_path), tmp_path / "inference" / "registry"
    await file.write(KnownRegistry(state=STATE, heard=NOW))
    raw = place.read_bytes()
    harmed = {"cut short": raw[:-1], "one byte": raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:], "empty": b""}
    place.write_bytes(harmed.get(harm, b"something else" if harm == "of no installation" else raw))
    reader = a_file(tmp_path, a_wrapper(b"t" * 32)) if harm == "another's" else file
    assert await reader.read() is None
    await file.write(KnownRegistry(state=STATE, heard=NOW))
    assert await file.read() is not None


async def test_what_is_too_old_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, place = a_file(tmp_path), tmp_path / "inference" / "registry"
    known = KnownRegistry(state=STATE, heard=NOW - MOST_AGE)
    assert await file.write(known)
    assert await file.read() == known
    assert await file.write(replace(known, heard=NOW - MOST_AGE - timedelta(seconds=1)))
    assert await file.read() is None, "whenever it was written"
    assert await file.write(replace(known, heard=NOW))
    monkeypatch.setattr(registry_file, "MOST_BYTES", 100)
    assert await file.read() is None
    place.unlink()
    assert not await file.write(known)
    assert not place.exists()


async def test_a_key_service_that_is_away_and_a_folder_that_is_none_stop_nothing(tmp_path: Path) -> None:
    class Away(KekFile):
        async def wrap(self, key: bytes, *, context: bytes) -> bytes:
            raise KeyServiceAway("vault")

    known = KnownRegistry(state=STATE, heard=NOW)
    assert not await a_file(tmp_path, Away({b"k" * 8: b"s" * 32})).write(known)
    assert not (tmp_path / "inference").exists()
    (tmp_path / "inference").write_text("in the way")
    assert not await a_file(tmp_path).write(known)
    assert await a_file(tmp_path).read() is None


class Replica:
    """What one process knows, with a database that may be away."""

    def __init__(self, folder: Path, feed: MemoryFeed, *, clock: FakeClock | None = None) -> None:
        self.clock, records = clock or FakeClock(), Records()
        self.registry, observe = MemoryRegistry(INSTALLED, clock=self.clock), ObserveRollouts()
        self.news = RegistryNews(feed, self.registry, observe, clock=self.clock)
        rollouts: object = Rollouts(records, ROLLOUT)
        self.judge = JudgeRollouts(
            registry=self.registry,
            observe=observe,
            records=records,
            rollouts=rollouts,  # type: ignore[arg-type]
            clock=self.clock,
        )
        self.file = RegistryFile(folder / "inference" / "registry", a_wrapper(), clock=self.clock)
        self.kept = KeptRegistry(self.file, self.news, self.judge, clock=self.clock)


async def test_a_replica_that_starts_alone_goes_by_what_was_known_last(tmp_path: Path) -> None:
    feed = MemoryFeed(STATE)
    first = Replica(tmp_path, feed)
    await first.kept.keep()
    assert not (tmp_path / "inference").exists(), "nothing is known yet"
    await first.news.look()
    await first.kept.keep()
    alone = Replica(tmp_path, feed)
    await alone.kept.recall()
    assert alone.registry.names(TENANT).own == STATE.holdings[TENANT]
    assert alone.news.key(VERSION) == Secret(KEY)
    with pytest.raises(ProviderUnavailable):
        alone.news.key(replace(VERSION, version=2))
    assert alone.news.heard_seconds_ago is None
    # Once the database is there, what it says counts.
    feed.state = RegistryState(version=8)
    await alone.news.look()
    assert alone.registry.names(TENANT).own == held()


async def test_what_was_taken_back_alone_stays_so_over_a_restart(tmp_path: Path) -> None:
    first = Replica(tmp_path, MemoryFeed(STATE))
    await first.news.look()
    await first.kept.keep()
    first.judge.take_back(TENANT, ROLLOUT, by="anna", reason="by command")
    await first.kept.keep()
    alone = Replica(tmp_path, MemoryFeed(STATE))
    await alone.kept.recall()
    found = alone.registry.rollout(TENANT, "w")
    assert found is not None
    assert (found.state, found.decided_by) == (RolloutState.ROLLED_BACK, "anna")
    await alone.judge.look()
    assert alone.judge.owed == (), "it is durable now"


async def test_a_file_says_until_when_it_was_so(tmp_path: Path) -> None:
    replica, place = Replica(tmp_path, MemoryFeed(STATE)), tmp_path / "inference" / "registry"
    await replica.news.look()
    await replica.kept.keep()
    raw = place.read_bytes()
    replica.clock.advance(seconds=700)
    await replica.kept.keep()
    assert place.read_bytes() == raw, "the database was not heard since"
    await replica.news.look()
    replica.clock.advance(seconds=1)
    await replica.kept.keep()
    known = await replica.file.read()
    assert known is not None
    assert known.heard == NOW + timedelta(seconds=700)


async def test_a_start_without_the_database_makes_nothing_younger_than_it_is(tmp_path: Path) -> None:
    first = Replica(tmp_path, MemoryFeed(STATE))
    await first.news.look()
    await first.kept.keep()
    raw = (tmp_path / "inference" / "registry").read_bytes()
    clock = FakeClock()
    clock.advance(seconds=MOST_AGE.total_seconds() - 60)
    alone = Replica(tmp_path, MemoryFeed(STATE), clock=clock)
    await alone.kept.recall()
    await alone.kept.keep()
    assert (tmp_path / "inference" / "registry").read_bytes() == raw
    # What it takes back must be written, and is no news of the database.
    alone.judge.take_back(TENANT, ROLLOUT, by="anna", reason="by command")
    await alone.kept.keep()
    known = await alone.file.read()
    assert known is not None
    assert (len(known.owed), known.heard) == (1, NOW)
    clock.advance(seconds=61)
    late = Replica(tmp_path, MemoryFeed(STATE), clock=clock)
    await late.kept.recall()
    assert late.news.state is None


async def test_what_could_not_be_kept_is_written_again_until_it_is(tmp_path: Path) -> None:
    replica = Replica(tmp_path, MemoryFeed(STATE))
    await replica.news.look()
    (tmp_path / "inference").write_text("in the way")
    await replica.kept.keep()
    (tmp_path / "inference").unlink()
    replica.clock.advance(seconds=9)
    await replica.kept.keep()
    assert await replica.file.read() is None, "not at each turn"
    replica.clock.advance(seconds=1)
    await replica.kept.keep()
    known = await replica.file.read()
    assert known is not None
    assert known.state == STATE
