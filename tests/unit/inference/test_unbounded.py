"""What becomes of a call that some of those who might answer it cannot be bounded for."""

import pytest

from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import CallNotBounded, ProviderUnavailable
from services.inference.domain.money_bound import bounds_of
from services.inference.domain.prompt import Prompt
from services.meshkit.content import ImagePart, Message, MessageRole, Part, text_part
from tests.support.inference import ANTHROPIC, LOCAL, OPENAI, USER, a_prompt, failing
from tests.support.pictures import a_png
from tests.unit.inference.conftest import make_room

#: Takes pictures, and nobody says what they cost at most there.
SERVER = DeploymentVersion(name="server/any", adapter=Adapter.OPENAI_COMPATIBLE, model="any")


def showing_a_picture() -> Prompt:
    picture = Part(ImagePart(media_type="image/png", data=a_png()), USER)
    return a_prompt(messages=(Message(role=MessageRole.USER, parts=(picture, text_part("What is this?", USER))),))


@pytest.mark.parametrize("chain", [(SERVER, OPENAI), (OPENAI, SERVER)])
async def test_who_cannot_be_bounded_is_passed_over_and_named(chain: tuple[DeploymentVersion, ...]) -> None:
    room = make_room(chain)
    answer = await room.ask(prompt=showing_a_picture())
    assert (answer.deployment, answer.failed_attempts) == (OPENAI.name, ("server/any: CALL_NOT_BOUNDED",))
    assert not room.providers[Adapter.OPENAI_COMPATIBLE].asked


async def test_who_cannot_be_bounded_is_no_fallback() -> None:
    room = make_room((OPENAI, SERVER))
    room.openai.scripts = [failing(ProviderUnavailable)]
    with pytest.raises(ProviderUnavailable):
        await room.ask(prompt=showing_a_picture())
    assert [hold.model for hold in room.holds.holds.values()] == [OPENAI.model]


async def test_a_call_that_nobody_can_be_bounded_for_is_refused_and_holds_nothing() -> None:
    room = make_room((SERVER, LOCAL))
    with pytest.raises(CallNotBounded, match=r"messages\[0\]\.parts\[0\]"):
        await room.ask(prompt=showing_a_picture())
    assert not room.holds.holds
    assert not room.law.seen


async def test_who_cannot_be_bounded_is_never_the_cheapest() -> None:
    room = make_room((OPENAI, ANTHROPIC, LOCAL), prices={OPENAI.name: 50, ANTHROPIC.name: 2, LOCAL.name: 1})
    room.holds.degrades = True
    by_name = await room.ask(prompt=showing_a_picture(), model=ANTHROPIC.name)
    assert (by_name.deployment, by_name.failed_attempts[-1]) == (ANTHROPIC.name, f"{ANTHROPIC.name}: BUDGET_DEGRADES")


def test_what_a_prompt_takes_at_most_is_said_by_those_that_can_be_bounded() -> None:
    assert bounds_of(showing_a_picture(), (SERVER, OPENAI)) == bounds_of(showing_a_picture(), (OPENAI,))
    with pytest.raises(CallNotBounded):
        bounds_of(showing_a_picture(), (SERVER,))
