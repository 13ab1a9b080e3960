"""One suite for the store of signed heads: a directory, and an object store."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from obstore.store import LocalStore, MemoryStore

from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.merkle import Tree
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.heads.erasure_notes import SignedErasureNotes
from services.gateway.heads.head_bucket import HeadBucket
from services.gateway.heads.head_directory import HeadDirectory
from services.gateway.heads.head_signer import Ed25519HeadSigner
from services.gateway.usecases.audit_ports import ArchivePart, HeadStore, Unsigned
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.audit_export import AuditKey
from tests.support.log_lines import log_lines

ONE, OTHER = (TenantId(UUID(f"01900000-0000-7000-8000-00000000000{number}")) for number in (1, 2))
KEY = AuditKey()
PART = ArchivePart(tenant=ONE, first=0, end=500)


def a_head(size: int, tenant: TenantId = ONE) -> Head:
    return KEY.head(Tree(size, [bytes(32)]), bytes(32), tenant_id=from_uuid("tenant", tenant))


STORES: dict[str, Callable[[Path], HeadDirectory | HeadBucket]] = {
    "directory": HeadDirectory,
    "memory bucket": lambda _: HeadBucket(MemoryStore()),
    "bucket": lambda folder: HeadBucket(LocalStore(folder, mkdir=True)),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> HeadDirectory | HeadBucket:
    return STORES[request.param](tmp_path / "store")


async def test_an_empty_store_knows_nobody(store: HeadStore) -> None:
    assert await store.tenants() == []
    assert await store.newest(ONE) is None


async def test_the_newest_head_is_the_one_over_the_most_entries(store: HeadStore) -> None:
    for size in (1, 9, 10, 100, 1_000_000):
        await store.add({ONE: a_head(size), OTHER: a_head(size + 1, OTHER)})

    assert await store.newest(ONE) == a_head(1_000_000)
    assert await store.newest(OTHER) == a_head(1_000_001, OTHER)
    assert await store.newest(ONE, above=999_999) == a_head(1_000_000)
    assert await store.newest(ONE, above=1_000_000) is None
    assert sorted(await store.tenants()) == [ONE, OTHER]


async def test_a_head_that_is_added_twice_harms_nobody(store: HeadStore) -> None:
    for _ in range(2):
        await store.add({ONE: a_head(7)})
    assert await store.newest(ONE) == a_head(7)


async def test_a_part_of_the_archive_comes_back(store: HeadStore) -> None:
    for _ in range(2):
        await store.put_archive(PART, b"lines\n")
    assert await store.archive(PART) == b"lines\n"
    with pytest.raises(HeadStoreDamaged):
        await store.archive(ArchivePart(tenant=OTHER, first=0, end=500))
    assert await store.tenants() == [], "an archive is no head"


def a_signer(kid: str = "audit-1") -> Ed25519HeadSigner:
    return Ed25519HeadSigner(SigningKey.generate(kid), AuditKeys({}), clock=FakeClock())


async def test_who_is_to_be_erased_is_kept_apart_from_heads(store: HeadDirectory | HeadBucket) -> None:
    notes = SignedErasureNotes(store, a_signer())
    assert await notes.erased() == []
    for tenant in (OTHER, ONE, OTHER):
        await notes.keep_erased(tenant)
    assert await notes.erased() == [ONE, OTHER]
    assert await store.tenants() == []


async def test_nobody_is_erased_for_a_note_that_the_audit_key_did_not_sign(store: HeadDirectory | HeadBucket) -> None:
    signer, one, other = a_signer(), from_uuid("tenant", ONE), from_uuid("tenant", OTHER)
    notes = SignedErasureNotes(store, signer)
    head = signer.sign(Unsigned(tenant=ONE, tree=Tree(1, [bytes(32)]), chain_hash=bytes(32)))
    forged = (
        b"",
        b"{}",
        b"[" * 100_000,
        one.encode(),
        head.to_json(),
        signer.sign_erasure(other),
        a_signer().sign_erasure(one),
        a_signer("audit-2").sign_erasure(one),
    )
    await notes.keep_erased(OTHER)
    for content in forged:
        await store.keep_note(one, content)
        assert await notes.erased() == [OTHER], content[:200]
    await notes.keep_erased(ONE)
    assert await notes.erased() == [ONE, OTHER], "the mesh's own note stands over a forged one"


async def test_a_stray_name_among_the_notes_is_passed_over(store: HeadDirectory | HeadBucket) -> None:
    notes = SignedErasureNotes(store, a_signer())
    await notes.keep_erased(ONE)
    await store.keep_note(".DS_Store", b"\0Bud1")

    with log_lines() as lines:
        assert await notes.erased() == [ONE]
    assert [line["name"] for line in lines] == [".DS_Store"]


async def test_heads_lie_in_a_file_per_day_that_only_grows(tmp_path: Path) -> None:
    store = HeadDirectory(tmp_path)
    grown = b""
    for size in range(1, 5):
        await store.add({ONE: a_head(size)})
        (file,) = (tmp_path / "heads" / from_uuid("tenant", ONE)).iterdir()
        content = file.read_bytes()
        assert content.startswith(grown)
        assert content.count(b"\n") == size
        grown = content
        assert file.name == "2026-03-01.jsonl"
        assert file.stat().st_mode & 0o077 == 0


async def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    store = HeadDirectory(tmp_path)
    await store.add({ONE: a_head(1)})
    (file,) = (tmp_path / "heads").rglob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"head":{"chain_hash":"AAAA')

    assert await store.newest(ONE) == a_head(1)
    await store.add({ONE: a_head(2)})
    assert await store.newest(ONE) == a_head(2)


async def test_a_first_line_that_a_crash_cut_short_is_no_head(tmp_path: Path) -> None:
    store = HeadDirectory(tmp_path)
    await store.add({ONE: a_head(1)})
    (file,) = (tmp_path / "heads").rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:50])
    assert await store.newest(ONE) is None
    await store.add({ONE: a_head(1)})
    assert await store.newest(ONE) == a_head(1)


async def test_a_directory_without_a_readable_head_is_damaged(tmp_path: Path) -> None:
    store = HeadDirectory(tmp_path)
    await store.add({ONE: a_head(1)})
    (file,) = (tmp_path / "heads").rglob("*.jsonl")
    file.write_bytes(b"something else\n")
    with pytest.raises(HeadStoreDamaged, match="no head that can be read"):
        await store.newest(ONE)


async def test_a_stranger_in_the_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "heads" / "lost+found").mkdir(parents=True)
    with pytest.raises(HeadStoreDamaged, match=r"lost\+found"):
        await HeadDirectory(tmp_path).tenants()


async def test_a_directory_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("in the way")
    store = HeadDirectory(tmp_path)
    with pytest.raises(Unavailable):
        await store.add({ONE: a_head(1)})
    with pytest.raises(Unavailable):
        await store.tenants()
