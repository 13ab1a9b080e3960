"""The small rules: chain, gate, events, cache, and who may make a hold."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.inference.chain import configured
from services.inference.domain.answer import Finished, StopReason, TextDelta
from services.inference.domain.deployment import Adapter, Capability, Deployments, DeploymentVersion, Task
from services.inference.domain.money_bound import OVERHEADS
from services.inference.domain.text_gate import TextGate
from services.inference.providers.catalogue import Catalogue
from services.inference.providers.sse import MAX_EVENT_BYTES, EventTooLarge, NotAnEvent, SseEvent, SseParser
from services.inference.providers.stub import StubProvider
from services.inference.settings import InferenceSettings
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import NanoUsd
from tests.support.inference import STUB, a_prompt, a_provider_call

ROOT = Path(__file__).parents[3]
REQUIRED = {
    "listen": "127.0.0.1:0",
    "database_url": "postgresql://x/y",
    "maintenance_database_url": "postgresql://x/y",
    "jwks_path": "a",
    "workload_key_path": "b",
    "workload_jwks_path": "c",
    "kek_path": "d",
}


def names(**settings: object) -> list[str]:
    return [one.name for one in configured(InferenceSettings.model_validate({**REQUIRED, **settings})).all]


def test_the_chain_is_what_is_configured_in_its_order() -> None:
    assert names() == []
    everything = {
        "local_model_url": "http://127.0.0.1:7413",
        "compatible_base_url": "http://127.0.0.1:11434/v1",
        "compatible_model": "llama3.2",
        "anthropic_api_key": "k",
        "openai_api_key": "k",
        "stub_enabled": True,
    }
    assert names(**everything) == [
        "openai/gpt-4o-mini",
        "anthropic/claude-haiku-4-5",
        "openai_compatible/llama3.2",
        "local/smollm2-135m-instruct",
        "local/all-minilm-l6-v2",
        "stub",
    ]


def test_a_compatible_server_must_name_its_model() -> None:
    with pytest.raises(ValidationError, match="COMPATIBLE_MODEL"):
        names(compatible_base_url="http://127.0.0.1:11434/v1")


def test_a_server_that_is_named_is_spoken_to_in_its_own_way() -> None:
    server = {"compatible_base_url": "http://127.0.0.1:8000/v1", "compatible_model": "qwen3"}
    for adapter in ("vllm", "tgi", "ollama", "llama_cpp"):
        assert names(**server, compatible_adapter=adapter) == [f"{adapter}/qwen3"]


def test_azure_is_asked_where_it_is() -> None:
    azure = {"openai_adapter": "azure", "openai_api_key": "k"}
    assert names(**azure, openai_base_url="https://x.openai.azure.com/openai/v1") == ["azure/gpt-4o-mini"]
    with pytest.raises(ValidationError, match="OPENAI_BASE_URL"):
        names(**azure)


def test_openai_is_paid_in_whichever_dialect_it_is_asked() -> None:
    asked = {"openai_adapter": "openai_responses", "openai_api_key": "k", "openai_embedding_model": "e"}
    one, embedder = configured(InferenceSettings.model_validate({**REQUIRED, **asked})).all
    assert (embedder.name, embedder.task, embedder.payee) == ("openai/e", Task.EMBED, "openai")
    assert (one.name, one.adapter, one.payee) == ("openai/gpt-4o-mini", Adapter.OPENAI_RESPONSES, "openai")


def test_every_adapter_says_what_it_can_and_what_its_dialect_adds() -> None:
    for adapter in Adapter:
        if adapter in (Adapter.LOCAL, Adapter.STUB):
            continue
        claims = Catalogue().claims(adapter)
        assert Capability.TOOLS in claims.capabilities
        assert claims.overhead is OVERHEADS[adapter]
    for installed in ("local", "stub"):
        with pytest.raises(Invalid, match="adapter"):
            Catalogue().claims(installed)


@pytest.mark.parametrize(
    ("region", "rule", "kept"),
    [("eu", "eu", True), ("eu-west-1", "eu", True), ("europe", "eu", False), ("", "eu", False), ("us", "", True)],
)
def test_a_region_covers_what_lies_in_it(region: str, rule: str, kept: bool) -> None:
    assert DeploymentVersion(name="x", adapter=Adapter.OPENAI, model="x", region=region).keeps_in(rule) is kept


def test_deployments_outside_the_chain_come_last() -> None:
    listed = Deployments([STUB, DeploymentVersion(name="a", adapter=Adapter.OPENAI, model="a")]).all
    assert [one.name for one in listed] == ["a", "stub"]


@given(st.lists(st.text(min_size=1, max_size=30), max_size=60))
def test_the_gate_releases_every_character_once_and_in_order(pieces: list[str]) -> None:
    gate = TextGate()
    shown = ""
    judged = 0
    for piece in pieces:
        gate.add(piece)
        text = gate.due()
        if text is not None:
            judged += len(text)
            assert text == gate.text[: len(text)]
            shown += gate.passed(text)
    shown += gate.passed(gate.text)
    assert shown == "".join(pieces)
    assert judged <= 20 * len(shown) + 200, "the law reads a bounded multiple of the answer"


def test_a_number_is_not_cut_at_its_point() -> None:
    gate = TextGate()
    gate.add("Pi is 3.")
    assert gate.due() is None
    gate.add("14, they say. And")
    assert gate.due() == "Pi is 3.14, they say. "


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=8), st.data())
def test_events_are_read_however_their_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    raw = "".join(f"event: x\r\ndata: {text}\r\n: a comment\r\n\r\n" for text in texts).encode()
    parser = SseParser()
    events: list[SseEvent] = []
    while raw:
        cut = data.draw(st.integers(1, len(raw)))
        events += parser.feed(raw[:cut])
        raw = raw[cut:]
    assert events == [SseEvent("x", text.encode()) for text in texts]
    assert parser.clean


def test_data_over_several_lines_is_joined_and_half_an_event_is_noticed() -> None:
    parser = SseParser()
    assert list(parser.feed(b"data: a\ndata: b\n\ndata: c")) == [SseEvent("", b"a\nb")]
    assert not parser.clean


def test_an_event_without_end_is_refused() -> None:
    parser = SseParser()
    with pytest.raises(EventTooLarge):
        list(parser.feed(b"data: " + b"x" * MAX_EVENT_BYTES))
    parser = SseParser()
    line = b"data: " + b"x" * 1000 + b"\n"
    with pytest.raises(EventTooLarge):
        list(parser.feed(line * (MAX_EVENT_BYTES // 1000 + 1)))


@pytest.mark.parametrize(
    "raw", [b"<", b"{", b"[", b"H", b"da:", b"datum", b"data: a\n\n<html>", b"oops\n", b"error: x\n"]
)
def test_what_is_no_event_is_refused_as_soon_as_it_can_be_told(raw: bytes) -> None:
    with pytest.raises(NotAnEvent):
        list(SseParser().feed(raw))
    parser = SseParser()
    with pytest.raises(NotAnEvent):
        for byte in raw:
            list(parser.feed(bytes([byte])))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_everything_that_the_standard_names_is_let_through(mark: bytes) -> None:
    raw = mark + b": hello\nid: 7\nretry: 100\n \nid\r\nevent: x\ndata: a\n\n"
    parser = SseParser()
    assert list(parser.feed(raw)) == [SseEvent("x", b"a")]
    parser = SseParser()
    assert [event for byte in raw for event in parser.feed(bytes([byte]))] == [SseEvent("x", b"a")]


async def stub_answer(**changes: object) -> tuple[str, Finished]:
    clearance = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(0)), verdict_id="verdict_1")
    pieces = [
        one async for one in StubProvider().stream(a_provider_call(STUB, a_prompt(**changes), clearance, seconds=1))
    ]
    text = "".join(one.text for one in pieces if isinstance(one, TextDelta))
    assert isinstance(pieces[-1], Finished)
    return text, pieces[-1]


async def test_the_stub_says_that_it_is_one_and_repeats_itself() -> None:
    text, finished = await stub_answer()
    assert "stub model, not a language model" in text
    assert await stub_answer() == (text, finished)
    assert finished.usage is not None
    assert finished.usage.input > 0
    assert finished.usage.output > 0


async def test_the_stub_keeps_the_limit_of_the_answer() -> None:
    text, finished = await stub_answer(max_output_tokens=3)
    assert finished.stop_reason is StopReason.LENGTH
    assert finished.usage is not None
    assert finished.usage.output <= 3
    assert len(text) <= 12


def test_only_providers_open_sockets_outwards_and_doors_inwards() -> None:
    openers = {path.parent.name for path in _sources() if _imports(path) & {"aiohttp", "httpx", "requests", "socket"}}
    assert openers == {"providers", "local", "doors"}


def _sources() -> list[Path]:
    return sorted((ROOT / "services" / "inference").rglob("*.py"))


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    return found | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
