"""The audit trail for users: listed, exported, verified without the mesh, proven."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from comitia.gateway.v1.audit_service_pb2 import GetAuditStatusResponse
from comitia_sdk.aio import AsyncClient
from comitia_sdk.audit.lines import head_line
from comitia_sdk.errors import InternalFailure, NotFound
from comitia_sdk.nouns.audit import check_consistency, check_proof
from comitia_sdk.sync import Client
from services.meshkit.core.errors import ErrorKind
from tests.contract.sdk.conftest import Comitia
from tests.support.audit_export import AuditKey, an_entry
from tests.support.fake_mesh import FakeMesh, Refused


@pytest.fixture
def trail(comitia: Comitia, tmp_path: Path) -> Path:
    """An export on the disk."""
    path = tmp_path / "trail.jsonl"
    assert "5 entries" in comitia("audit", "export", str(path)).out
    return path


@pytest.fixture
def keys(mesh: FakeMesh, tmp_path: Path) -> Path:
    """The keys that the user trusts."""
    path = tmp_path / "audit_jwks.json"
    path.write_bytes(mesh.audit.key.public.to_json())
    return path


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ("audit list", "budget_4"),
        ("audit list --target budget_3 --since 2026-03-01", "refused"),
        ("audit list --most 1", "budget_4"),
        ("audit list --actor nobody", "no entries"),
        ("audit status", "5 entries on 2026-03-01"),
        ("audit prove 3", "budget_3"),
    ],
)
def test_each_command_shows_its_answer_to_people_and_to_programs(comitia: Comitia, command: str, shows: str) -> None:
    arguments = command.split(" ")

    assert shows in comitia(*arguments).out
    assert isinstance(json.loads(comitia(*arguments, "-o", "json").out), dict | list)


def test_the_list_ends_where_it_was_told_to(comitia: Comitia) -> None:
    assert len(json.loads(comitia("audit", "list", "--most", "2", "-o", "json").out)) == 2


def test_an_export_is_verified_without_a_mesh(
    comitia: Comitia, trail: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMITIA_URL", "http://127.0.0.1:1")

    assert "the export agrees with itself" in comitia("audit", "verify", str(trail)).out
    assert "the export is whole" in comitia("audit", "verify", str(trail), "--keys", str(keys)).out
    assert (
        "the export is whole" in comitia("audit", "verify", str(trail), "--keys", str(keys), "--heads", str(trail)).out
    )
    shown = json.loads(comitia("audit", "verify", str(trail), "-o", "json").out)
    assert (shown["whole"], shown["entries"], shown["faults"]) == (True, 5, [])


def test_a_changed_export_is_refused_with_the_entry(comitia: Comitia, trail: Path, keys: Path) -> None:
    trail.write_bytes(trail.read_bytes().replace(b"budget_3", b"budget_9"))

    told = comitia("audit", "verify", str(trail), "--keys", str(keys), code=1)

    assert "line 4, entry 3: this entry was changed" in told.out
    assert "the export is NOT whole" in told.out
    assert not json.loads(comitia("audit", "verify", str(trail), "-o", "json", code=1).out)["whole"]


def test_keys_of_somebody_else_are_not_trusted(comitia: Comitia, trail: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.json"
    others.write_bytes(AuditKey("audit-2").public.to_json())

    told = comitia("audit", "verify", str(trail), "--keys", str(others), code=1)

    assert "'audit-1', which is not trusted" in told.out
    assert "not trusted" in comitia("audit", "prove", "1", "--keys", str(others), code=1).err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "{folder}/absent"), "cannot be read"),
        (("verify", "{trail}", "--keys", "{trail}"), "is no key set"),
        (("verify", "{trail}", "--keys", "{folder}/absent"), "cannot be read"),
        (("verify", "{trail}", "--heads", "{folder}/keys"), "holds no signed head"),
        (("export", "{folder}/absent/trail"), "cannot be written"),
        (("prove", "-1"), "--help"),
    ],
)
def test_wrong_files_are_named(
    comitia: Comitia, trail: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "keys").write_text("{}")
    told = comitia("audit", *(one.format(folder=tmp_path, trail=trail) for one in arguments), code=2)
    assert says in told.err


def test_what_is_not_signed_yet_or_not_there_is_said(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.audit.write(an_entry(5))

    assert "NOT_YET_SIGNED" in comitia("audit", "prove", "5", "--no-wait", code=1).err
    assert "does not exist" in comitia("audit", "prove", "99", code=1).err


def test_a_trail_that_is_not_whole_is_said_in_detail(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.audit.gaps.append(GetAuditStatusResponse.Gap(service="cost", stream=3, position=8))
    mesh.audit.contradiction = "its first 5 entries are not those that were signed"

    told = comitia("audit", "status", code=1).out

    assert "cost, stream 3, from 8" in told
    assert "are not those that were signed" in told
    assert "memory" in told


def test_a_gap_that_was_looked_into_stays_and_is_no_alarm(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.audit.gaps.append(GetAuditStatusResponse.Gap(service="cost", stream=3, position=8))
    gap = ("audit", "acknowledge", "cost", "3", "8", "--reason", "the disk of 3 March")

    assert "the disk of 3 March" in comitia(*gap).out
    assert "has acknowledged this gap before" in comitia(*gap, code=1).err
    told = comitia("audit", "status").out
    assert "1 gaps" in told
    assert "cost, stream 3, from 8" in told
    assert "the disk of 3 March" in told
    assert "does not exist" in comitia("audit", "acknowledge", "cost", "0", "1", "--reason", "x", code=1).err
    assert "--reason" in comitia("audit", "acknowledge", "cost", "3", "8", code=2).err


def test_an_export_that_ends_early_leaves_the_old_file(comitia: Comitia, mesh: FakeMesh, trail: Path) -> None:
    before = trail.read_bytes()
    mesh.audit.cut_short = True
    assert "ended early" in comitia("audit", "export", str(trail), code=1).err
    mesh.fail_next("ExportAudit", Refused(ErrorKind.DENIED, "PERMISSION_MISSING", "this needs 'audit.export'"))
    assert "audit.export" in comitia("audit", "export", str(trail), code=1).err

    assert trail.read_bytes() == before
    assert [path.name for path in trail.parent.iterdir() if "trail" in path.name] == ["trail.jsonl"]


def test_a_proof_says_more_to_whoever_names_keys(comitia: Comitia, keys: Path) -> None:
    assert "entry 3 is in the signed tree" in comitia("audit", "prove", "3", "--keys", str(keys)).out
    told = comitia("audit", "prove", "3")
    assert "entry 3: consistent with what the mesh said; not verified" in told.out
    assert "signed tree" not in told.out
    assert "not verified" in comitia("audit", "prove", "3", "-o", "json").err
    assert comitia("audit", "prove", "3", "-o", "json", "--keys", str(keys)).err == ""


def test_a_proof_of_another_entry_is_refused(comitia: Comitia, mesh: FakeMesh, keys: Path) -> None:
    mesh.audit.shows_instead = 2
    told = comitia("audit", "prove", "3", "--keys", str(keys), code=1)
    assert "the proof does not hold: it is about entry 2, not 3" in told.err


def test_a_proof_waits_for_the_next_head_but_not_for_ever(
    comitia: Comitia, mesh: FakeMesh, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comitia_sdk.cli.audit._LOOK_SECONDS", 0.0)
    mesh.audit.write(an_entry(5))
    mesh.audit.signs_after = 3
    told = comitia("audit", "prove", "5", "--keys", str(keys))
    assert "entry 5 is in the signed tree" in told.out
    assert len(told.err.splitlines()) == 1
    assert "waiting for a signed head that covers entry 5" in told.err
    mesh.audit.write(an_entry(6))
    mesh.audit.signs_after = None
    monkeypatch.setattr("comitia_sdk.cli.audit._WAIT_SECONDS", 0.0)
    assert "[NOT_YET_SIGNED]" in comitia("audit", "prove", "6", code=1).err


def test_the_trail_is_compared_with_what_the_user_kept(
    comitia: Comitia, mesh: FakeMesh, trail: Path, keys: Path
) -> None:
    mesh.audit.write(an_entry(5))
    mesh.audit.sign()
    kept = trail.with_name("march.json")
    kept.write_bytes(head_line(mesh.audit.heads[2]))
    told = comitia("audit", "compare", str(trail), str(kept), "--keys", str(keys)).out
    assert "the trail only grew since then" in told
    assert "5 entries" in told
    assert "2 entries" in told
    assert "6 entries" in told
    assert "consistent with what the mesh said; not verified" in comitia("audit", "compare", str(kept)).out
    assert len(json.loads(comitia("audit", "compare", str(kept), "-o", "json").out)) == 1


def test_a_trail_that_was_cut_or_rewritten_since_is_found(
    comitia: Comitia, mesh: FakeMesh, trail: Path, keys: Path
) -> None:
    command = ("audit", "compare", str(trail), "--keys", str(keys))
    mesh.audit.rewrite(an_entry(number) for number in range(10, 15))
    assert "another head over 5 entries than the one that was kept" in comitia(*command, code=1).err
    mesh.audit.rewrite(an_entry(number) for number in range(4))
    assert "no head over 5 entries" in comitia(*command, code=1).err
    assert "holds no signed head" in comitia("audit", "compare", str(keys), code=2).err


async def test_proofs_hold_and_changed_ones_do_not(client: AsyncClient, mesh: FakeMesh) -> None:
    keys = mesh.audit.key.public
    for index in range(5):
        proof = await client.audit.prove(index)
        assert check_proof(proof, index=index, keys=keys) is None
        assert "not 7" in str(check_proof(proof, index=7))
        proof.entry.entry.actor = "key_somebody_else"
        assert "not the one that was hashed" in str(check_proof(proof, index=index))
    proof = await client.audit.prove(2)
    proof.path[0] = bytes(32)
    assert "does not lead" in str(check_proof(proof, index=2))
    proof = await client.audit.prove(4)
    proof.entry.chain_hash = bytes(32)
    assert "chain hash" in str(check_proof(proof, index=4))
    proof = await client.audit.prove(2)
    proof.head.signature = bytes(64)
    assert check_proof(proof, index=2) is None
    assert "signature" in str(check_proof(proof, index=2, keys=keys))


async def test_a_kept_head_is_the_beginning_of_the_newest_or_it_is_said(client: AsyncClient, mesh: FakeMesh) -> None:
    keys, kept = mesh.audit.key.public, mesh.audit.heads[2]
    both = await client.audit.prove_consistency(2)
    assert check_consistency(both, kept=kept, keys=keys) is None
    both.first.root_hash = bytes(32)
    assert "another head over 2 entries" in str(check_consistency(both, kept=kept))
    forged = replace(kept, root_hash=bytes(32))
    assert "is not the beginning" in str(check_consistency(both, kept=forged))
    both = await client.audit.prove_consistency(2)
    both.second.signature = bytes(64)
    assert check_consistency(both, kept=kept) is None
    assert "signature" in str(check_consistency(both, kept=kept, keys=keys))
    assert "of 'tenant_other'" in str(check_consistency(both, kept=replace(kept, tenant_id="tenant_other")))
    same = await client.audit.prove_consistency(5)
    same.second.chain_hash = bytes(32)
    assert "the chain of the later head" in str(check_consistency(same, kept=mesh.audit.heads[5]))
    with pytest.raises(NotFound):
        await client.audit.prove_consistency(3)


def test_the_blocking_client_saves_a_trail(blocking: Client, mesh: FakeMesh, tmp_path: Path) -> None:
    with (tmp_path / "trail").open("wb") as file:
        assert blocking.audit.save(file) == 5
    assert [one.index for one in blocking.audit.list(page_size=2)] == [4, 3, 2, 1, 0]
    mesh.audit.cut_short = True
    with (tmp_path / "trail").open("wb") as file, pytest.raises(InternalFailure, match="ended early"):
        blocking.audit.save(file)
