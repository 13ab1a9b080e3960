"""What is remembered, by whom, and once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from comitia.common.v1 import content_pb2
from comitia.memory.v1 import memory_service_pb2 as pb
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Role
from tests.integration.memory.conftest import (
    MemoryMesh,
    a_context,
    a_part,
    a_remember,
    a_session,
)


async def test_a_memory_is_stored_sealed_and_read_back(mesh: MemoryMesh) -> None:
    session = a_session()
    answer = await mesh.call("Remember", a_remember("Ban cars.", session_id=session, tags=["round:1", "round:1"]))
    made = answer.memory
    assert answer.verdict_id.startswith("verdict_")
    assert (made.session_id, made.agent_name, list(made.tags)) == (session, "Athena", ["round:1"])
    assert made.expire_time.ToDatetime() - made.create_time.ToDatetime() == timedelta(days=1)
    read = await mesh.get(made.memory_id)
    assert read.parts == made.parts
    assert read.parts[0].label.sources == ["agent:Athena"]
    (row,) = await mesh.rows("payload")
    assert b"Ban cars" not in row.payload


async def test_law_sees_it_first_and_what_it_blocks_is_not_stored(mesh: MemoryMesh) -> None:
    mesh.around.law.blocked.add("secret")
    assert await mesh.refused("Remember", a_remember("a secret plan")) == "denied/LAW_BLOCKED"
    assert not (await mesh.page()).memories
    (judged,) = mesh.around.law.seen
    assert mesh.around.law.stages() == ["before"]
    assert judged.parts[0].text.text == "a secret plan"


async def test_what_the_law_redacts_is_stored_redacted_with_its_label(mesh: MemoryMesh) -> None:
    mesh.around.law.redacted["4111-1111"] = "[card]"
    made = await mesh.remember("pay with 4111-1111")
    read = await mesh.get(made.memory_id)
    assert read.parts[0].text.text == "pay with [card]"
    assert read.parts[0].label == a_part("").label
    await mesh.embedded(made)
    assert mesh.around.inference.texts == ["pay with [card]"]


async def test_without_law_nothing_is_stored(mesh: MemoryMesh) -> None:
    mesh.around.law.faults.next(Unavailable("postgres"))
    assert (await mesh.refused("Remember", a_remember())).startswith("unavailable/")
    assert not (await mesh.page()).memories


async def test_a_repeated_call_answers_with_the_first_memory(mesh: MemoryMesh) -> None:
    caller = mesh.speaking_as(peer="orchestrator")
    request = a_remember("Ban cars.", context=a_context("rounds/1/Athena"))
    answers = [await caller.call("Remember", request) for _ in range(2)]
    answers += await asyncio.gather(*(caller.call("Remember", request) for _ in range(8)))
    assert len({answer.memory.memory_id for answer in answers}) == 1
    assert len({answer.verdict_id for answer in answers}) == 1
    assert len((await mesh.page()).memories) == 1


async def test_a_repeat_stands_even_when_the_law_has_changed(mesh: MemoryMesh) -> None:
    request = a_remember("Ban cars.", context=a_context())
    first = await mesh.call("Remember", request)
    mesh.around.law.blocked.add("cars")
    assert (await mesh.call("Remember", request)).memory.memory_id == first.memory.memory_id


async def test_the_same_call_with_something_else_is_a_conflict(mesh: MemoryMesh) -> None:
    context = a_context("rounds/1/Athena")
    await mesh.remember("Ban cars.", context=context)
    assert await mesh.refused("Remember", a_remember("Plant trees.", context=context)) == (
        "conflict/CALL_ARGUMENTS_DIFFER"
    )


async def test_an_outside_caller_cannot_take_the_call_of_a_service(mesh: MemoryMesh) -> None:
    context = a_context("rounds/1/Athena")
    mine = await mesh.remember("Mine.", context=context)
    theirs = await mesh.speaking_as(peer="orchestrator").remember("Theirs.", context=context)
    assert mine.memory_id != theirs.memory_id


async def test_tenants_have_their_own_call_ids(mesh: MemoryMesh, other: MemoryMesh) -> None:
    request = a_remember(context=a_context())
    one, two = [(await caller.call("Remember", request)).memory.memory_id for caller in (mesh, other)]
    assert one != two


async def test_direct_calls_without_an_id_are_each_their_own(mesh: MemoryMesh) -> None:
    one, two = await mesh.remember("Twice."), await mesh.remember("Twice.")
    assert one.memory_id != two.memory_id


async def test_labels_of_outside_callers_are_raised_and_of_services_kept(mesh: MemoryMesh) -> None:
    trusted = a_part("Trust me.", integrity=content_pb2.INTEGRITY_TRUSTED)
    unsaid = content_pb2.Part(text=content_pb2.TextPart(text="No label."))
    outside = await mesh.remember(parts=[trusted, unsaid])
    inside = await mesh.speaking_as(peer="orchestrator").remember(parts=[trusted], context=a_context())
    assert [part.label.integrity for part in outside.parts] == [
        content_pb2.INTEGRITY_USER,
        content_pb2.INTEGRITY_UNTRUSTED,
    ]
    assert inside.parts[0].label.integrity == content_pb2.INTEGRITY_TRUSTED


async def test_many_at_once_are_all_stored(mesh: MemoryMesh, other: MemoryMesh) -> None:
    made = await asyncio.gather(
        *(mesh.remember(f"memory {number}") for number in range(60)),
        *(other.remember(f"memory {number}") for number in range(20)),
    )
    assert len({memory.memory_id for memory in made}) == 80
    assert len((await mesh.page(page_size=500)).memories) == 60


async def test_sixty_four_kilobytes_fit_and_one_byte_more_does_not(mesh: MemoryMesh) -> None:
    made = await mesh.remember("x" * 65_536)
    assert len((await mesh.get(made.memory_id)).parts[0].text.text) == 65_536
    assert await mesh.refused("Remember", a_remember("x" * 65_537)) == "invalid/INVALID_FIELD/parts"
    assert await mesh.refused("Remember", a_remember("é" * 32_769)) == "invalid/INVALID_FIELD/parts"


async def test_pictures_are_remembered_and_never_embedded(mesh: MemoryMesh) -> None:
    picture = content_pb2.Part(image=content_pb2.ImagePart(media_type="image/png", data=b"\x89PNG"))
    made = await mesh.remember(parts=[picture])
    said = await mesh.remember("Said.")
    await mesh.embedded(said)
    assert not (await mesh.get(made.memory_id)).embedded
    assert mesh.around.inference.texts == ["Said."]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parts": []}, "parts"),
        ({"parts": [a_part("x")] * 17}, "parts"),
        ({"parts": [a_part("")]}, "parts"),
        ({"parts": [content_pb2.Part()]}, "parts[0]"),
        ({"session_id": "session_1"}, "session_id"),
        ({"session_id": "memory_01jx0000000000000000000000"}, "session_id"),
        ({"agent_name": "x" * 64}, "agent_name"),
        ({"agent_name": "a\x00b"}, "agent_name"),
        ({"tags": ["x"] * 5 + [str(n) for n in range(16)]}, "tags"),
        ({"tags": [""]}, "tags[0]"),
        ({"tags": ["fine", "x" * 65]}, "tags[1]"),
        ({"tags": ["a\nb"]}, "tags[0]"),
        ({"ring_ttl_seconds": -1}, "ring_ttl_seconds"),
        ({"ring_ttl_seconds": 2**62}, "ring_ttl_seconds"),
        ({"context": a_context("p" * 513)}, "context.call_id.path"),
        ({"context": a_context(budget_ids=["run_1"])}, "context.budget_ids[0]"),
        ({"context": a_context(budget_ids=["b"] * 17)}, "context.budget_ids"),
        ({"context": a_context(budget_ids=["budget_01jd0000000000000000000000"])}, "context.budget_ids"),
        ({"context": a_context(run_id="run_01jd0000000000000000000000")}, "context.call_id.run_id"),
    ],
)
async def test_what_is_wrong_is_named(mesh: MemoryMesh, changes: dict[str, Any], field: str) -> None:
    assert await mesh.refused("Remember", a_remember(**changes)) == f"invalid/INVALID_FIELD/{field}"
    assert not mesh.around.law.seen


async def test_a_service_must_name_its_call(mesh: MemoryMesh) -> None:
    caller = mesh.speaking_as(peer="orchestrator")
    assert await caller.refused("Remember", a_remember()) == "invalid/INVALID_FIELD/context.call_id.run_id"


async def test_roles_decide_who_may_write(mesh: MemoryMesh) -> None:
    auditor = mesh.speaking_as(Role.AUDITOR)
    assert await auditor.refused("Remember", a_remember()) == "denied/PERMISSION_MISSING"
    assert await auditor.refused("ForgetMemory", pb.ForgetMemoryRequest()) == "denied/PERMISSION_MISSING"
    assert not (await auditor.page()).memories
    operator = mesh.speaking_as(Role.OPERATOR)
    assert await operator.refused("ListMemories", pb.ListMemoriesRequest()) == "denied/PERMISSION_MISSING"
