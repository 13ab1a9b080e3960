"""What providers report as used, divided into our classes and priced: golden examples, and reports that make no sense.

An example quotes a published page, or says that it is synthetic. Its sum was added up by hand from published prices.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from services.cost.domain.price import BEGINNING, Price, Rates, Tier
from services.cost.domain.price_book import PriceBook
from services.cost.prices.snapshot import shipped_prices
from services.inference.domain.answer import Finished
from services.inference.domain.deployment import Adapter, DeploymentVersion, Task
from services.inference.providers.anthropic.messages import AnthropicProvider
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.providers.openai.chat import ChatProvider, Endpoint
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.openai.responses import ResponsesProvider
from services.inference.providers.servers.manners import COMPATIBLE
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.content import Usage
from services.meshkit.content.usage import MOST_TOKENS
from services.meshkit.core.money import NANO_PER_USD, NanoUsd
from services.meshkit.core.secret import Secret
from tests.support.inference import a_prompt, a_provider_call
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider

CLEARANCE: Final = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(1)), verdict_id="verdict_1")
EXAMPLES: Final = Path(__file__).with_name("fixtures") / "usage"
#: When the examples' prices hold.
THEN: Final = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A file of `fixtures/usage`."""

    #: openai, compatible, responses, anthropic or embeddings.
    dialect: str
    #: `published`, on the page, or `synthetic`.
    origin: str
    page: str
    note: str
    #: Usage objects as they come, one after the other.
    reports: list[dict[str, Any]]
    #: Provider, model, page, and dollars per million tokens of the classes in use.
    price: dict[str, Any]
    classes: dict[str, int]
    nano_usd: int
    #: How the amount was added up by hand: tokens times nano-USD of one token.
    sum: str

    @property
    def usage(self) -> Usage:
        return Usage(**self.classes)

    @property
    def rates(self) -> dict[str, int]:
        """Nano-USD per million tokens by class."""
        dollars: dict[str, str] = self.price["usd_per_million"]
        return {name: int(Decimal(amount) * NANO_PER_USD) for name, amount in dollars.items()}


def example(path: Path) -> Example:
    return Example(**json.loads(path.read_text()))


def paths() -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(EXAMPLES.glob("*.json"))]


class Dialects:
    """Every adapter, asking one server that answers as it is told."""

    def __init__(self, http: ProviderHttp, server: FakeProvider) -> None:
        openai = Endpoint(base_url=server.openai_base_url, key=Secret(KEY))
        anthropic = Endpoint(base_url=server.anthropic_base_url, key=Secret(KEY))
        self._server = server
        self._chats = {
            "openai": ChatProvider(http, openai),
            "compatible": ChatProvider(http, openai, COMPATIBLE),
            "responses": ResponsesProvider(http, openai),
            "anthropic": AnthropicProvider(http, anthropic),
        }
        self._embeddings = OpenAiEmbeddings(http, openai)

    async def read(self, dialect: str, reports: list[Any]) -> Usage | None:
        """Has an answer come with these reports. It comes whole, whatever they say."""
        if dialect == "embeddings":
            vector = {"embedding": [1.0], "index": 0}
            self._server.next(Behaviour(raw=json.dumps({"data": [vector], "usage": reports[-1]})))
            deployment = DeploymentVersion(name="embedder", adapter=Adapter.OPENAI, model="embedder", task=Task.EMBED)
            made = await self._embeddings.embed(deployment, ("one",), CLEARANCE, seconds=5)
            assert made.vectors == ((1.0,),)
            return made.usage
        write = {"anthropic": anthropic_events, "responses": responses_events}.get(dialect, openai_chunks)
        self._server.next(Behaviour(raw="".join(write(reports))))
        finished, text = await self._ask(dialect)
        assert text == "Rivers meet."
        return finished.usage

    async def _ask(self, dialect: str) -> tuple[Finished, str]:
        deployment = DeploymentVersion(name=dialect, adapter=Adapter.OPENAI, model="model")
        text = ""
        async with aclosing(
            self._chats[dialect].stream(a_provider_call(deployment, a_prompt(), CLEARANCE, seconds=5))
        ) as stream:
            async for piece in stream:
                if isinstance(piece, Finished):
                    return piece, text
                text += piece.text
        raise AssertionError("a stream ended without Finished and without an error")


def openai_chunks(reports: list[Any]) -> Iterator[str]:
    """Writes a stream with a report in each of its last chunks."""
    said = {"choices": [{"index": 0, "delta": {"content": "Rivers meet."}, "finish_reason": "stop"}]}
    yield f"data: {json.dumps(said)}\n\n"
    for report in reports:
        yield f"data: {json.dumps({'choices': [], 'usage': report})}\n\n"
    yield "data: [DONE]\n\n"


def responses_events(reports: list[Any]) -> Iterator[str]:
    """Writes a stream that reports once, at its end."""
    yield f"data: {json.dumps({'type': 'response.output_text.delta', 'delta': 'Rivers meet.'})}\n\n"
    response = {"status": "completed", "output": [], "usage": reports[-1]}
    yield f"data: {json.dumps({'type': 'response.completed', 'response': response})}\n\n"


def anthropic_events(reports: list[Any]) -> Iterator[str]:
    """Writes a stream with the first report at its start and the others at its end; one alone stands in both places."""
    first, *others = reports
    started = {**first, "output_tokens": 1} if not others and isinstance(first, dict) else first
    events = [
        {"type": "message_start", "message": {"model": "model", "usage": started}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Rivers meet."}},
        *[{"type": "message_delta", "delta": {}, "usage": report} for report in others or [first]],
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    return (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


@pytest.fixture
async def dialects() -> AsyncIterator[Dialects]:
    async with fake_provider() as server, provider_http(connections=4) as http:
        yield Dialects(http, server)


@pytest.mark.parametrize("path", paths())
async def test_what_a_provider_reports_falls_into_classes_that_do_not_overlap(path: Path, dialects: Dialects) -> None:
    golden = example(path)
    assert await dialects.read(golden.dialect, golden.reports) == golden.usage


@pytest.mark.parametrize("path", paths())
def test_the_classes_cost_what_the_published_prices_say(path: Path) -> None:
    golden = example(path)
    price = Price(provider="p", model="m", tiers=(Tier(0, Rates(**golden.rates)),), start=BEGINNING, source="a page")
    assert price.charge(golden.usage) == golden.nano_usd
    assert price.bound(golden.usage) >= golden.nano_usd


@pytest.mark.parametrize("path", paths())
def test_the_shipped_prices_charge_the_same(path: Path) -> None:
    golden = example(path)
    price = PriceBook(shipped_prices().prices).find(golden.price["provider"], golden.price["model"], at=THEN)
    assert price.charge(golden.usage) == golden.nano_usd


@pytest.mark.parametrize("path", paths())
def test_an_example_says_where_it_is_from_and_how_it_was_added_up(path: Path) -> None:
    golden = example(path)
    assert golden.origin in ("published", "synthetic")
    assert golden.origin == "synthetic" or golden.page.startswith("https://")
    assert golden.price["page"].startswith("https://")
    used = {name: count for name, count in asdict(golden.usage).items() if count}
    per_token = golden.rates
    assert golden.sum == " + ".join(
        f"{used[name]}*{per_token[name] // 1_000_000}" for name in sorted(used, key=list(golden.classes).index)
    )


def test_every_class_that_a_dialect_can_report_has_an_example() -> None:
    seen = {(example(path.values[0]).dialect, name) for path in paths() for name in example(path.values[0]).classes}
    prompt = {"input", "cache_read", "cache_write_5m", "audio_in"}
    assert {name for dialect, name in seen if dialect == "openai"} == prompt | {"output", "reasoning", "audio_out"}
    assert {name for dialect, name in seen if dialect == "responses"} == {
        "input",
        "cache_read",
        "cache_write_5m",
        "output",
        "reasoning",
    }
    assert {name for dialect, name in seen if dialect == "anthropic"} == {
        "input",
        "cache_read",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
    }
    assert ("embeddings", "input") in seen


def chat(**changes: Any) -> dict[str, Any]:
    """A report of OpenAI's dialect that makes sense, but for the changes."""
    return {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150, **changes}


def response(**changes: Any) -> dict[str, Any]:
    """A report of OpenAI's newer dialect that makes sense, but for the changes."""
    return {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, **changes}


def message(**changes: Any) -> dict[str, Any]:
    """A report of Anthropic's dialect that makes sense, but for the changes."""
    return {"input_tokens": 100, "output_tokens": 50, **changes}


HUGE: Final = 10**40
SENSELESS: Final[dict[str, dict[str, Any]]] = {
    "openai": {
        "more cached than the prompt has": chat(prompt_tokens_details={"cached_tokens": 101}),
        "more cached and heard than the prompt has": chat(
            prompt_tokens_details={"cached_tokens": 60, "audio_tokens": 60}
        ),
        "more written than the prompt has": chat(prompt_tokens_details={"cache_write_tokens": 101}),
        "more reasoning than the answer has": chat(completion_tokens_details={"reasoning_tokens": 51}),
        "more spoken than the answer has": chat(completion_tokens_details={"audio_tokens": 51}),
        "a negative prompt": chat(prompt_tokens=-1, total_tokens=49),
        "a negative answer": chat(completion_tokens=-1, total_tokens=99),
        "a negative cache": chat(prompt_tokens_details={"cached_tokens": -1}),
        "negative reasoning": chat(completion_tokens_details={"reasoning_tokens": -1}),
        "a total that is too small": chat(total_tokens=149),
        "a total that is too large": chat(total_tokens=151),
        "a total of nothing": chat(total_tokens=0),
        "no prompt": {"completion_tokens": 50, "total_tokens": 150},
        "no answer": {"prompt_tokens": 100, "total_tokens": 150},
        "a prompt of null": chat(prompt_tokens=None),
        "a fraction": chat(prompt_tokens=99.5),
        "a whole number as a float": chat(prompt_tokens=100.0),
        "a number as text": chat(prompt_tokens="100"),
        "a truth for a number": chat(prompt_tokens=True),
        "huge": chat(prompt_tokens=HUGE, total_tokens=HUGE + 50),
        "more than a call can take": chat(prompt_tokens=MOST_TOKENS + 1, total_tokens=MOST_TOKENS + 51),
        "details that are a list": chat(prompt_tokens_details=[]),
        "a list": [100, 50],
        "a text": "100",
    },
    "responses": {
        "more cached than the prompt has": response(input_tokens_details={"cached_tokens": 101}),
        "more cached and written than the prompt has": response(
            input_tokens_details={"cached_tokens": 60, "cache_write_tokens": 60}
        ),
        "more reasoning than the answer has": response(output_tokens_details={"reasoning_tokens": 51}),
        "a negative prompt": response(input_tokens=-1, total_tokens=49),
        "a negative answer": response(output_tokens=-1, total_tokens=99),
        "a negative cache": response(input_tokens_details={"cached_tokens": -1}),
        "negative reasoning": response(output_tokens_details={"reasoning_tokens": -1}),
        "a total that is too large": response(total_tokens=151),
        "no prompt": {"output_tokens": 50, "total_tokens": 150},
        "no answer": {"input_tokens": 100, "total_tokens": 150},
        "nothing": response(input_tokens=0, output_tokens=0, total_tokens=0),
        "a fraction": response(input_tokens=99.5),
        "a number as text": response(input_tokens="100"),
        "huge": response(input_tokens=HUGE, total_tokens=HUGE + 50),
        "details that are a list": response(input_tokens_details=[]),
        "null": None,
        "a list": [100, 50],
    },
    "anthropic": {
        "more thinking than the answer has": message(output_tokens_details={"thinking_tokens": 51}),
        "negative thinking": message(output_tokens_details={"thinking_tokens": -1}),
        "a negative prompt": message(input_tokens=-1),
        "a negative answer": message(output_tokens=-1),
        "a negative cache": message(cache_read_input_tokens=-1),
        "a negative write": message(cache_creation_input_tokens=-1),
        "lives of a cache that are less than was written": message(
            cache_creation_input_tokens=300,
            cache_creation={"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 100},
        ),
        "lives of a cache that are more than was written": message(
            cache_creation_input_tokens=248,
            cache_creation={"ephemeral_5m_input_tokens": 456, "ephemeral_1h_input_tokens": 100},
        ),
        "an hour that is more than was written": message(
            cache_creation_input_tokens=10, cache_creation={"ephemeral_1h_input_tokens": 11}
        ),
        "no prompt": {"output_tokens": 50},
        "no answer": {"input_tokens": 100},
        "an answer of null": message(output_tokens=None),
        "a fraction": message(output_tokens=50.5),
        "a whole number as a float": message(input_tokens=100.0),
        "a number as text": message(input_tokens="100"),
        "huge": message(output_tokens=HUGE),
        "more than a call can take": message(cache_read_input_tokens=MOST_TOKENS + 1),
        "details that are a list": message(output_tokens_details=[]),
        "a list": [100, 50],
    },
    "embeddings": {
        "negative": {"prompt_tokens": -1, "total_tokens": -1},
        "nothing": {"prompt_tokens": 0, "total_tokens": 0},
        "a total that differs": {"prompt_tokens": 8, "total_tokens": 9},
        "a fraction": {"prompt_tokens": 8.5},
        "huge": {"prompt_tokens": HUGE},
        "no count": {},
        "null": None,
        "a list": [8],
    },
}
SENSELESS["compatible"] = SENSELESS["openai"]


@pytest.mark.parametrize(
    ("dialect", "report"),
    [
        pytest.param(dialect, report, id=f"{dialect}-{name}")
        for dialect, reports in SENSELESS.items()
        for name, report in reports.items()
    ],
)
async def test_counts_that_make_no_sense_are_unknown_and_spoil_no_answer(
    dialect: str, report: Any, dialects: Dialects
) -> None:
    assert await dialects.read(dialect, [report]) is None


@pytest.mark.parametrize("dialect", ["openai", "compatible"])
async def test_the_last_report_decides_whether_counts_make_sense(dialect: str, dialects: Dialects) -> None:
    assert await dialects.read(dialect, [chat(), chat(total_tokens=1)]) is None
    assert await dialects.read(dialect, [chat(), chat(prompt_tokens="100")]) is None
    assert await dialects.read(dialect, [chat(total_tokens=1), chat()]) == Usage(input=100, output=50)


@pytest.mark.parametrize("dialect", ["openai", "compatible"])
async def test_a_report_of_zeros_says_nothing(dialect: str, dialects: Dialects) -> None:
    zeros = chat(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    assert await dialects.read(dialect, [chat(), zeros]) == Usage(input=100, output=50)
    assert await dialects.read(dialect, [zeros]) is None


async def test_a_start_without_an_end_is_unknown(dialects: Dialects) -> None:
    assert await dialects.read("anthropic", [message(), {}]) is None
    assert await dialects.read("anthropic", [message(), None]) is None
    assert await dialects.read("anthropic", [{"input_tokens": 1.5}, message()]) is None


async def test_the_most_that_a_call_can_take_is_counted(dialects: Dialects) -> None:
    most = chat(prompt_tokens=MOST_TOKENS, total_tokens=MOST_TOKENS + 50)
    assert await dialects.read("openai", [most]) == Usage(input=MOST_TOKENS, output=50)
