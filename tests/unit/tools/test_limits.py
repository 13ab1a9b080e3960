"""What bounds calls: the cache, live text; and how tools are ranked."""

from uuid import UUID

from services.meshkit.core.identity import TenantId
from services.meshkit.testing.mesh_keys import TENANT
from services.tools.builtins.http_text import TextReader, is_text
from services.tools.domain.invocation import ToolOutput
from services.tools.domain.live_text import LiveText
from services.tools.domain.relevance import lexical_score, similarity, words_of
from services.tools.domain.result_cache import ResultCache
from services.tools.domain.shipped import shipped_tools
from tests.support.tools import a_template, a_tool

OTHER = TenantId(UUID(int=7))


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_results_are_kept_for_their_time_by_tenant_definition_and_arguments() -> None:
    now = Now()
    cache = ResultCache(now=now, most_bytes=10_000)
    tool = a_tool(cache_ttl_seconds=60).checked()
    cache.put(TENANT, tool, {"a": 1, "b": 2}, ToolOutput(text="3"))
    assert cache.get(TENANT, tool, {"b": 2, "a": 1}) == ToolOutput(text="3")
    assert cache.get(OTHER, tool, {"a": 1, "b": 2}) is None
    assert cache.get(TENANT, tool, {"a": 1}) is None
    assert cache.get(TENANT, a_tool(cache_ttl_seconds=61).checked(), {"a": 1, "b": 2}) is None
    now.seconds = 60.0
    assert cache.get(TENANT, tool, {"a": 1, "b": 2}) is None
    assert cache.size_bytes == 0


def test_failures_and_tools_without_time_are_not_kept() -> None:
    cache = ResultCache(now=Now(), most_bytes=10_000)
    kept, unkept = a_tool(cache_ttl_seconds=60).checked(), a_tool().checked()
    cache.put(TENANT, kept, {}, ToolOutput(text="no", failed=True))
    cache.put(TENANT, unkept, {}, ToolOutput(text="3"))
    cache.put(TENANT, kept, {"big": 1}, ToolOutput(text="x" * 9_000))
    assert cache.size_bytes == 0


def test_the_cache_never_grows_beyond_its_bytes() -> None:
    cache = ResultCache(now=Now(), most_bytes=10_000)
    tool = a_tool(cache_ttl_seconds=60).checked()
    for number in range(100):
        cache.put(TENANT, tool, {"n": number}, ToolOutput(text="x" * 1_000))
        cache.get(TENANT, tool, {"n": 0})
    assert cache.size_bytes <= 10_000
    assert cache.get(TENANT, tool, {"n": 0}) is not None, "what is used stays"
    assert cache.get(TENANT, tool, {"n": 1}) is None


def test_live_text_waits_for_enough_and_never_cuts_a_word() -> None:
    live = LiveText()
    live.add("word " * 100)
    assert live.due() is None
    live.add("word " * 400 + "unfinish")
    due = live.due()
    assert due is not None
    assert due.endswith("word ")
    assert live.passed(due) == due
    assert live.due() is None
    live.add("ed " + "word " * 2_000)
    again = live.due()
    assert again is not None
    assert live.passed(again) == again[len(due) :]


def test_text_that_the_law_changes_late_is_not_released_any_more() -> None:
    live = LiveText()
    live.add("secret " * 1_000)
    text = live.due() or ""
    live.passed(text)
    live.add("end " * 5_000)
    assert live.passed((live.due() or "").replace("secret", "[redacted]")) == ""
    live.add("more " * 20_000)
    assert live.due() is None


def test_tools_are_ranked_by_shared_words() -> None:
    calculator, http_get = shipped_tools(())
    task = words_of("Calculate the square root of this expression, please")
    assert lexical_score(task, calculator) > lexical_score(task, http_get)
    fetch = words_of("fetching web pages by URL")
    assert lexical_score(fetch, http_get) > lexical_score(fetch, calculator)
    assert lexical_score(words_of("weather in Ulm"), a_template()) > 0.4
    assert lexical_score(frozenset(), calculator) == 0
    assert all(0 <= lexical_score(words_of(text), calculator) <= 1 for text in ("calculator", "a b", "\U0001f600"))


def test_similarity_is_a_share() -> None:
    assert similarity((1.0, 0.0), (1.0, 0.0)) == 1.0
    assert similarity((1.0, 0.0), (-1.0, 0.0)) == 0.0
    assert similarity((1.0,), (1.0, 0.0)) == 0.0


def test_text_is_decoded_across_pieces_and_cut_where_it_must() -> None:
    reader = TextReader(charset="utf-8", most_bytes=100)
    data = "gr\u00fc\u00dfe".encode()
    assert "".join(reader.feed(bytes([byte])) for byte in data) == "gr\u00fc\u00dfe"
    assert reader.text() == "gr\u00fc\u00dfe"
    cut = TextReader(charset=None, most_bytes=3)
    cut.feed(data)
    assert cut.is_cut
    assert cut.text() == "gr\n[cut after 3 bytes]"
    assert _read("rot13", b"abc") == "abc"
    assert _read("iso-8859-1", b"\xe4") == "\u00e4"
    assert _read("utf-8", b"\xff\x00a") == "\ufffd\x00a"


def test_text_that_grows_as_utf_8_stays_within_a_part() -> None:
    reader = TextReader(charset="latin-1", most_bytes=262_144)
    reader.feed(b"\xe4" * 262_144)
    assert len(reader.text().encode()) <= 262_144


def test_only_text_is_read_as_text() -> None:
    assert all(is_text(kind) for kind in ("", "text/html", "application/json", "application/ld+json", "TEXT/CSV"))
    assert not any(is_text(kind) for kind in ("image/png", "application/octet-stream", "application/pdf"))


def _read(charset: str, data: bytes) -> str:
    reader = TextReader(charset=charset, most_bytes=100)
    reader.feed(data)
    return reader.text()
