"""A question that is nearly another is given its answer, where its route says so, and to nobody else."""

import asyncio
from array import array
from dataclasses import dataclass, field, replace
from math import cos, sin
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.answer import Answer, StopReason
from services.inference.domain.answer_cache import CacheKey, KeptAnswers
from services.inference.domain.call_policy import CacheUse, CallPolicy
from services.inference.domain.deployment import Adapter, DeploymentVersion, Task
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.nearest import nearest
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import Prompt, ToolDefinition
from services.inference.domain.registered import check_route
from services.inference.domain.route import Candidate, Plan, Route, RouteMember, RouteMode
from services.inference.domain.similar_answers import SimilarAnswers, question_of, similarity
from services.inference.transport.doors.headers import answer_headers
from services.inference.usecases.cached_answers import CachedAnswers
from services.inference.usecases.embed import AskedVectors, Vectors
from services.inference.usecases.near_answers import NearAnswers
from services.meshkit.content import (
    Confidentiality,
    ImagePart,
    Integrity,
    Label,
    MessageRole,
    Part,
    Usage,
    text_of,
    text_part,
)
from services.meshkit.content.law import Verdict
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from tests.support.inference import ANNA, OPENAI, USER, a_context, a_message, a_prompt, an_asked
from tests.support.pictures import a_png
from tests.unit.inference.conftest import until

ROUTE = Route(
    name="faq",
    mode=RouteMode.CHAIN,
    members=(RouteMember(deployment=OPENAI.name),),
    cache_seconds=60.0,
    semantic_threshold=0.95,
)
#: Questions by their angle: 0.1 apart is a cosine of 0.995, 0.5 apart one of 0.88.
ANGLES = {"How do rivers end?": 0.0, "How does a river end?": 0.1, "Who owns the sea?": 0.5, "In 3 days?": 1.0}
ANGLES["In 4 days?"] = ANGLES["In 3 days?"]
RIVERS, RIVER, SEA = list(ANGLES)[:3]
ANSWER = Answer(
    parts=(text_part("In the sea.", USER),),
    stop_reason=StopReason.STOP,
    usage=Usage(input=1, output=1),
    provider="openai",
    model="gpt-test",
    hold_id="hold_1",
    cost_nano_usd=5,
    verdict_ids=(),
    bundle_digest="ab",
    rules=(),
    provider_us=1,
)


MINILM = DeploymentVersion(name="local/minilm", adapter=Adapter.LOCAL, model="minilm", task=Task.EMBED)


@dataclass
class Faq:
    """Calls of one route."""

    clock: FakeClock = field(default_factory=FakeClock)
    made: list[str] = field(default_factory=list[str])
    embedded: list[AskedVectors] = field(default_factory=list[AskedVectors])
    faults: FaultQueue = field(default_factory=FaultQueue)
    #: Set, answers come at once.
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    kept: SimilarAnswers = field(default_factory=lambda: SimilarAnswers(nearest, most_bytes=100_000))
    answers: CachedAnswers = field(init=False)

    def __post_init__(self) -> None:
        self.answering.set()
        near = NearAnswers(self.kept, embed=self.embed, embedder=MINILM, clock=self.clock)
        self.answers = CachedAnswers(KeptAnswers(most_bytes=100_000), seconds=60.0, clock=self.clock, near=near)

    async def embed(self, asked: AskedVectors) -> Vectors:
        self.embedded.append(asked)
        self.faults.hit()
        angle = ANGLES[asked.texts[0]]
        return Vectors(vectors=((cos(angle), sin(angle)),), model="minilm", usage=Usage())

    async def ask(
        self,
        text: str,
        *,
        route: Route | None = ROUTE,
        version: int = 1,
        digest: str = "ab",
        answer: Answer | Exception = ANSWER,
        prompt: Prompt | None = None,
        **changes: Any,
    ) -> tuple[Answer, float] | None:
        """Asks; gives the kept answer and how near it was, None when the call was made."""
        asked = an_asked(prompt or a_prompt(text), **changes)
        before = asyncio.get_running_loop().create_future()
        before.set_result(Verdict(id="verdict_1", allowed=True, rules=(), bundle_digest=digest, bundle="law@1"))
        plan = Plan(candidates=(Candidate(version=replace(OPENAI, version=version)),), route=route)
        async with self.answers.turn(asked, plan, before) as turn:
            if turn.answer is not None:
                return turn.answer, turn.similarity
            self.made.append(text)
            await self.answering.wait()
            if isinstance(answer, Exception):
                raise answer
            turn.made = answer
        return None


@pytest.fixture
async def faq() -> Faq:
    return Faq()


async def test_a_question_that_is_nearly_another_gets_its_answer_and_is_told_how_near_it_was(faq: Faq) -> None:
    assert await faq.ask(RIVERS) is None
    found = await faq.ask(RIVER)
    assert found is not None
    assert text_of(found[0].parts) == "In the sea."
    assert found[1] == pytest.approx(cos(0.1))
    assert await faq.ask(SEA) is None
    assert await faq.ask(RIVERS) == (ANSWER, 0.0), "the same question is no near one"
    assert faq.made == [RIVERS, SEA]
    assert {asked.inside for asked in faq.embedded} == {MINILM}


async def test_a_route_that_did_not_ask_for_it_compares_nothing(faq: Faq) -> None:
    for route in (None, replace(ROUTE, semantic_threshold=0.0)):
        assert await faq.ask(RIVERS, route=route) is None
        assert await faq.ask(RIVER, route=route) is None
    assert not faq.embedded


async def test_an_answer_is_given_within_its_tenant_and_where_all_else_is_equal(faq: Faq) -> None:
    await faq.ask(RIVERS)
    instructed = a_prompt(messages=(a_message("Be brief.", MessageRole.SYSTEM), a_message(RIVER)))
    secret = a_prompt(messages=(a_message(RIVER, label=Label(confidentiality=Confidentiality.RESTRICTED)),))
    others: list[dict[str, Any]] = [
        {"principal": replace(ANNA, tenant=TenantId(UUID(int=7)))},
        {"context": replace(a_context(), project="atlas")},
        {"version": 2},
        {"digest": "cd"},
        {"route": replace(ROUTE, name="other")},
        {"prompt": instructed},
        {"prompt": secret},
        {"prompt": a_prompt(RIVER, temperature=0.5)},
    ]
    for changes in others:
        assert await faq.ask(RIVER, **changes) is None, changes
    assert await faq.ask(RIVER) is not None


async def test_a_question_is_embedded_under_its_own_label(faq: Faq) -> None:
    secret = Label(confidentiality=Confidentiality.RESTRICTED)
    await faq.ask("", prompt=a_prompt(messages=(a_message(RIVER, label=secret),)))
    assert [asked.label for asked in faq.embedded] == [secret]


async def test_vectors_of_two_models_are_never_compared(faq: Faq) -> None:
    asked, question, group = an_asked(a_prompt(RIVERS)), question_of(a_prompt(RIVERS)), CacheKey(b"group")
    assert question is not None
    found: list[bool] = []
    for embedder in (MINILM, MINILM, replace(MINILM, model="another")):
        near = NearAnswers(faq.kept, embed=faq.embed, embedder=embedder, clock=faq.clock)
        async with near.turn(asked, question, group, least=0.95, seconds=60.0) as turn:
            found.append(turn.near is not None)
            turn.made = ANSWER
    assert found == [False, True, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("In 3 days?", "In 4 days?"),
        ("What is 5+3?", "What is 5-3?"),
        ("What is 5 + 3?", "What is 5 - 3?"),
        ("Is -5 a number?", "Is 5 a number?"),
        ("What are 1.5 m in feet?", "What are 1 5 m in feet?"),
        ("Is .5 a number?", "Is 5 a number?"),
        ("What is x² at its least?", "What is x³ at its least?"),
        ("A cup, or ½ of one?", "A cup, or ¼ of one?"),
        ("What costs 5€?", "What costs 5$?"),
        ("Is 3 < 4?", "Is 3 > 4?"),
        ("What is 5! worth?", "What is 5 worth?"),
        ("Is she 6' tall?", 'Is she 6" tall?'),
        ("Is it 6' wide?", "Is it 6 wide?"),
        ("What is 6 : 3?", "What is 6 3?"),
        ("Is 3 ! 4?", "Is 3 ? 4?"),
        ("Is (5) one?", "Is 5) one?"),
        ("Is [3, 4] whole?", "Is (3, 4) whole?"),
        ("Is it 5% or 5!?", "Is it 5% or 5?"),
        ("What follows 1, 2...?", "What follows 1, 2?"),
    ],
)
async def test_questions_with_other_numbers_or_signs_are_other_questions(faq: Faq, one: str, other: str) -> None:
    ANGLES[one] = ANGLES[other] = 1.0
    await faq.ask(one)
    assert await faq.ask(other) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("In 3 days?", "Say, in 3 days"),
        ("In 2024, who won?", "Who won in 2024?"),
        ("Who won in 2024", "Who won in 2024 ?"),
        ("Count to 5.", "Can you count to 5?"),
    ],
)
async def test_how_a_sentence_with_numbers_ends_makes_no_other_question(faq: Faq, one: str, other: str) -> None:
    ANGLES[one] = ANGLES[other] = 1.0
    await faq.ask(one)
    assert await faq.ask(other) is not None


async def test_an_answer_is_given_as_long_as_it_is_kept(faq: Faq) -> None:
    await faq.ask(RIVERS)
    faq.clock.advance(seconds=59)
    assert await faq.ask(RIVER, deadline=200.0) is not None
    faq.clock.advance(seconds=1)
    assert await faq.ask(RIVER, deadline=200.0) is None


async def test_a_near_answer_is_kept_for_its_own_question_only_so_that_nothing_drifts(faq: Faq) -> None:
    ANGLES["a"], ANGLES["b"], ANGLES["c"] = 2.0, 2.3, 2.6
    assert await faq.ask("a") is None
    assert await faq.ask("b") is not None
    assert await faq.ask("c") is None


async def test_calls_that_ask_nearly_the_same_at_once_are_made_once(faq: Faq) -> None:
    faq.answering.clear()
    asks = [asyncio.create_task(faq.ask(text)) for text in (RIVERS, RIVER) * 50]
    await until(lambda: len(faq.embedded) == 2)
    faq.answering.set()
    answers = await asyncio.gather(*asks)
    assert answers.count(None) == len(faq.made) == 1


async def test_a_call_that_fails_fails_alone_and_the_next_like_it_is_made(faq: Faq) -> None:
    faq.answering.clear()
    first = asyncio.create_task(faq.ask(RIVERS, answer=Unavailable("openai")))
    await until(lambda: faq.made)
    second = asyncio.create_task(faq.ask(RIVER))
    await until(lambda: len(faq.embedded) == 2)
    faq.answering.set()
    with pytest.raises(Unavailable):
        await first
    assert await second is None
    assert faq.made == [RIVERS, RIVER]


async def test_what_is_no_answer_for_others_holds_nobody_up(faq: Faq) -> None:
    cut_off = replace(ANSWER, stop_reason=StopReason.LENGTH)
    assert await faq.ask(RIVERS, answer=cut_off) is None
    assert await faq.ask(RIVER) is None


async def test_a_caller_may_want_no_kept_answer_or_a_fresh_one(faq: Faq) -> None:
    await faq.ask(RIVERS)
    assert await faq.ask(RIVER, policy=CallPolicy(cache=CacheUse.NO)) is None
    fresh = replace(ANSWER, parts=(text_part("They do not.", USER),))
    assert await faq.ask(RIVER, policy=CallPolicy(cache=CacheUse.REFRESH), answer=fresh) is None
    found = await faq.ask(RIVER)
    assert found is not None
    assert text_of(found[0].parts) == "They do not."


async def test_without_a_vector_the_call_is_made(faq: Faq) -> None:
    await faq.ask(RIVERS)
    faq.faults.next(ProviderUnavailable("it is down", deployment="local/minilm"))
    assert await faq.ask(RIVER) is None
    assert faq.made == [RIVERS, RIVER]


async def test_an_answer_carries_the_labels_of_the_question_that_it_is_given_to(faq: Faq) -> None:
    await faq.ask(RIVERS, answer=replace(ANSWER, parts=(text_part("In the sea.", Label(integrity=Integrity.TRUSTED)),)))
    found = await faq.ask(RIVER)
    assert found is not None
    assert all(part.label.covers(USER) for part in found[0].parts)


PICTURE = Part(ImagePart(media_type="image/png", data=a_png()), USER)


@pytest.mark.parametrize(
    "prompt",
    [
        a_prompt("One.", "Two."),
        a_prompt(messages=(a_message("Yes."), a_message("No.", MessageRole.ASSISTANT), a_message("Why?"))),
        a_prompt(messages=(a_message("Be brief.", MessageRole.SYSTEM),)),
        a_prompt(tools=(ToolDefinition(name="search", input_schema={}),)),
        a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_SCHEMA, schema={"type": "object"})),
        a_prompt(messages=(replace(a_message("What is it?"), parts=(PICTURE,)),)),
        a_prompt("x" * 241),
        a_prompt("\uac01" * 100),
        a_prompt("  "),
    ],
    ids=["two", "history", "system", "tools", "form", "picture", "long", "accents", "blank"],
)
def test_only_a_short_text_without_anything_beside_is_a_question(prompt: Prompt) -> None:
    assert question_of(prompt) is None


def test_a_question_may_follow_instructions() -> None:
    question = question_of(a_prompt(messages=(a_message("Be brief.", MessageRole.SYSTEM), a_message("Why 7?"))))
    assert question is not None
    assert (question.text, text_of(question.rest.parts[-1:])) == ("Why 7?", "7")


@pytest.mark.parametrize("threshold", [0.5, 0.2, -1.0, 1.01, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(Invalid) as refused:
        check_route(replace(ROUTE, semantic_threshold=threshold))
    assert refused.value.field == "route.cache.semantic_threshold"


def test_a_threshold_without_a_time_is_refused() -> None:
    check_route(ROUTE)
    with pytest.raises(Invalid) as refused:
        check_route(replace(ROUTE, cache_seconds=0.0))
    assert refused.value.field == "route.cache.exact_ttl"


def test_what_is_kept_is_bounded_for_each_group_and_tenant_and_in_all() -> None:
    tenants = [TenantId(UUID(int=number)) for number in range(3)]
    kept = SimilarAnswers(nearest, most_bytes=2_100 * 6, most_of_tenant=4, most_of_group=2)

    def keep(tenant: TenantId, group: str, angle: float) -> None:
        kept.keep(tenant, CacheKey(group.encode()), (cos(angle), sin(angle)), ANSWER, until=10.0)

    def looked(group: str, angle: float, *, now: float = 0.0) -> bool:
        vector = (cos(angle), sin(angle))
        key = CacheKey(group.encode())
        return any(kept.look(tenant, key, vector, least=0.999, now=now) for tenant in tenants)

    for number in range(3):
        keep(tenants[0], "a", float(number))
    assert [looked("a", float(number)) for number in range(3)] == [False, True, True]
    for group in ("b", "c", "d"):
        keep(tenants[0], group, 0.0)
    assert len(kept) == 4
    for number in range(10):
        keep(tenants[1 + number % 2], f"e{number}", 0.0)
    assert len(kept) <= 6
    assert kept.bytes <= 2_100 * 6
    assert looked("e9", 0.0)
    assert not looked("e9", 0.0, now=10.0)
    # Two asked for more than their share; the first has what is left of its own.
    assert sum(looked(group, 0.0) for group in ("a", "b", "c", "d")) == 2
    for group in ("a", "b", "c", "d", *(f"e{number}" for number in range(10))):
        looked(group, 0.0, now=10.0)
    assert (len(kept), kept.bytes) == (0, 0)


@given(
    st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=20),
    st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
)
def test_many_questions_are_compared_at_once_as_they_are_one_by_one(
    kept: list[list[float]], wanted: list[float]
) -> None:
    place, cosine = nearest([array("f", one) for one in kept], wanted)
    assert cosine == pytest.approx(max(similarity(one, wanted) for one in kept))
    assert cosine == pytest.approx(similarity(kept[place], wanted))


def test_who_asks_much_pushes_out_no_answers_of_one_who_asks_little() -> None:
    small, greedy = (TenantId(UUID(int=number)) for number in range(2))
    kept, group = SimilarAnswers(nearest, most_bytes=2_100 * 6), CacheKey(b"faq")
    kept.keep(small, group, (1.0, 0.0), ANSWER, until=10.0)
    for number in range(50):
        kept.keep(greedy, group, (cos(number), sin(number)), ANSWER, until=10.0)
    assert kept.look(small, group, (1.0, 0.0), least=0.9, now=0.0) is not None
    assert kept.bytes <= 2_100 * 6


def test_a_door_says_how_near_the_question_was() -> None:
    near = replace(ANSWER, cached=True, cache_similarity=0.97)
    assert answer_headers(near)["x-comitia-cache"] == "near; 0.9700"
    assert answer_headers(replace(near, cache_similarity=0.0))["x-comitia-cache"] == "hit"
