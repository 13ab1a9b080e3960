"""PDFs at the doors of a whole mesh, sent by the official clients: what reaches the model, and what never does."""

import base64
from typing import Any, Final

import openai
import pytest

from tests.e2e import test_doors_anthropic as anthropic_doors
from tests.e2e.conftest import Tenant
from tests.e2e.test_doors_openai import MODEL, asked, opened
from tests.support.mesh import RunningMesh

PDF: Final = "application/pdf"
DATA: Final = base64.b64encode(b"%PDF-1.7 pages").decode()


def url(media_type: str = PDF, data: str = DATA) -> str:
    return f"data:{media_type};base64,{data}"


def shown(tenant: Tenant, file: str) -> list[Any]:
    parts = [
        {"type": "input_text", "text": f"Sum it up. {tenant.mark}"},
        {"type": "input_file", "filename": "bill.pdf", "file_data": file},
    ]
    return [{"role": "user", "content": parts}]


async def test_a_pdf_reaches_the_model_through_every_door(mesh: RunningMesh, tenant: Tenant) -> None:
    tenant.says(*["Rivers owe us."] * 3)
    text, file = f"Sum it up. {tenant.mark}", {"filename": "bill.pdf", "file_data": url()}
    async with opened(mesh, tenant.key) as ai:
        await ai.responses.create(model=MODEL, input=shown(tenant, url()))
        chat: list[Any] = [
            {"role": "user", "content": [{"type": "text", "text": text}, {"type": "file", "file": file}]}
        ]
        await ai.chat.completions.create(model=MODEL, messages=chat)
    async with anthropic_doors.opened(mesh, tenant.key) as claude:
        source = {"type": "base64", "media_type": PDF, "data": DATA}
        document = {"type": "document", "source": source, "title": "bill.pdf"}
        messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": text}, document]}]
        await claude.messages.create(model=MODEL, max_tokens=50, messages=messages)
    calls = asked(tenant)
    assert len(calls) == 3
    for call in calls:
        assert call["body"]["messages"][0]["content"] == [
            {"type": "text", "text": text},
            {"type": "file", "file": file},
        ]


async def test_what_is_no_pdf_or_cannot_be_bounded_is_refused_by_its_name(mesh: RunningMesh, tenant: Tenant) -> None:
    async with opened(mesh, tenant.key) as ai:
        for lie in (url(data="eA=="), url("text/plain")):
            with pytest.raises(openai.BadRequestError) as refused:
                await ai.responses.create(model=MODEL, input=shown(tenant, lie))
            assert (refused.value.code, refused.value.param) == ("media_invalid", "input[0].content[1].file_data")
        with pytest.raises(openai.BadRequestError) as unbounded:
            await ai.responses.create(model="stub", input=shown(tenant, url()))
        assert unbounded.value.code == "call_not_bounded"
    assert asked(tenant) == []


async def test_the_law_reads_what_a_pdf_is_called(mesh: RunningMesh, tenant: Tenant) -> None:
    rule = "rules: [{name: no_bills, type: keyword, keywords: [bill], action: block, stages: [before]}]"
    await tenant.client.policies.apply(rule, name="papers", version="1.0.0")
    async with opened(mesh, tenant.key) as ai:
        with pytest.raises(openai.BadRequestError) as blocked:
            await ai.responses.create(model=MODEL, input=shown(tenant, url()))
    assert blocked.value.code == "content_policy_violation"
    assert asked(tenant) == []
