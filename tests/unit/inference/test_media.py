"""Pictures and PDFs: what they really are, what they cost at most, and what the law sees of them."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import CallNotBounded, MediaInvalid
from services.inference.domain.media import MAX_MEDIA_BYTES, MAX_SIDE, PDF, as_law_left, shown_to_law, size_of
from services.inference.domain.money_bound import bound_of
from services.inference.domain.prompt import Prompt
from services.inference.domain.prompt_limits import checked_prompt
from services.meshkit.content import (
    BlobPart,
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    Part,
    TextPart,
    text_part,
)
from tests.support.inference import USER, a_prompt
from tests.support.pictures import a_gif, a_jpeg, a_png


def picture(data: bytes, media_type: str = "image/png") -> ImagePart:
    return ImagePart(media_type=media_type, data=data)


def showing(*pictures: ImagePart) -> Prompt:
    parts = tuple(Part(one, USER) for one in pictures)
    return a_prompt(messages=(Message(role=MessageRole.USER, parts=(text_part("Look:", USER), *parts)),))


@pytest.mark.parametrize(
    ("data", "media_type"), [(a_png(), "image/png"), (a_jpeg(), "image/jpeg"), (a_gif(), "image/gif")]
)
def test_a_picture_is_what_its_first_bytes_say_and_as_large(data: bytes, media_type: str) -> None:
    prompt = showing(picture(data, media_type))
    assert checked_prompt(prompt) is prompt
    size = size_of(picture(data, media_type))
    assert (size.width, size.height) == (640, 480)


@pytest.mark.parametrize(
    ("lie", "field"),
    [
        (picture(a_jpeg()), "media_type"),
        (picture(a_png(), "image/svg+xml"), "media_type"),
        (picture(a_png(), ""), "media_type"),
        (picture(b"<svg/>", "image/svg+xml"), "data"),
        (picture(b"%PDF-1.7"), "data"),
        (picture(b""), "data"),
        (picture(a_png()[:20]), "data"),
        (picture(a_png(MAX_SIDE + 1, 1)), "data"),
        (picture(a_png(0, 7)), "data"),
    ],
)
def test_what_is_no_picture_or_another_one_is_refused_with_its_field(lie: ImagePart, field: str) -> None:
    with pytest.raises(MediaInvalid) as refused:
        checked_prompt(showing(lie))
    assert refused.value.field == f"messages[0].parts[1].image.{field}"


def test_pictures_are_bounded_in_all_and_take_nothing_of_the_room_for_text() -> None:
    half = picture(a_png(padding=MAX_MEDIA_BYTES // 2))
    checked_prompt(showing(picture(a_png(padding=MAX_MEDIA_BYTES // 2))))
    with pytest.raises(MediaInvalid):
        checked_prompt(showing(half, half))
    with pytest.raises(MediaInvalid):
        checked_prompt(showing(picture(a_png(padding=50 * 1024 * 1024))))


def bound(prompt: Prompt, adapter: Adapter, **changes: int) -> int:
    return bound_of(prompt, replace(DeploymentVersion(name="x", adapter=adapter, model="m"), **changes)).input


sides = st.integers(1, MAX_SIDE)


def counted_by_openai(width: int, height: int) -> int:
    """As the guide to vision says for gpt-4o-mini, the dearest."""
    scale = min(Fraction(1), Fraction(2048, max(width, height)))
    width_, height_ = width * scale, height * scale
    scale = min(Fraction(1), 768 / min(width_, height_))
    tiles = -(-width_ * scale // 512) * -(-height_ * scale // 512)
    return 2833 + 5667 * tiles


def counted_by_anthropic(width: int, height: int) -> float:
    """As the guide to vision says: the area by 750, at most what the largest takes that is not scaled."""
    return min(4784.0, width * height / 750)


@given(sides, sides)
@example(1699, 3399)
def test_no_picture_counts_more_than_its_bound(width: int, height: int) -> None:
    shown, none = showing(picture(a_png(width, height))), showing()
    assert counted_by_openai(width, height) <= bound(shown, Adapter.OPENAI) - bound(none, Adapter.OPENAI)
    assert counted_by_anthropic(width, height) <= bound(shown, Adapter.ANTHROPIC) - bound(none, Adapter.ANTHROPIC)


def test_a_small_picture_holds_less_money_than_a_large_one() -> None:
    small, large = showing(picture(a_png(64, 64))), showing(picture(a_png(4000, 4000)))
    for adapter in (Adapter.OPENAI, Adapter.ANTHROPIC):
        assert bound(small, adapter) < bound(large, adapter) / 2


def test_a_deployment_that_says_what_its_pictures_take_is_bounded_by_that() -> None:
    shown, none = showing(picture(a_png())), showing()
    with_tokens = {"image_tokens": 900}
    adapter = Adapter.OPENAI_COMPATIBLE
    assert bound(shown, adapter, **with_tokens) >= bound(none, adapter) + 900


def test_what_a_deployment_says_lowers_no_bound_that_is_known() -> None:
    shown = showing(picture(a_png(4000, 4000)))
    for adapter in (Adapter.OPENAI, Adapter.ANTHROPIC):
        assert bound(shown, adapter, image_tokens=1) == bound(shown, adapter)
        assert bound(shown, adapter, image_tokens=100_000) > 100_000
    assert bound(a_document(), Adapter.OPENAI, context_tokens=1) >= 128_000
    long = a_prompt(messages=(*a_document().messages, *a_prompt("x" * 200_000).messages))
    assert bound(long, Adapter.OPENAI, context_tokens=128_000) >= 200_000


def test_the_law_sees_a_line_in_the_place_of_a_picture_and_the_picture_comes_back() -> None:
    parts = showing(picture(a_png())).parts
    seen = shown_to_law(parts)
    assert seen[0] is parts[0]
    assert isinstance(seen[1].content, TextPart)
    assert seen[1].content.text.startswith("[picture image/png 640x480 sha256:")
    assert seen[1].label == USER
    assert as_law_left(parts, seen) == parts
    redacted = (replace(parts[0], content=TextPart("***")), seen[1])
    assert as_law_left(parts, redacted) == (redacted[0], parts[1])
    taken_out = (parts[0], replace(seen[1], content=TextPart("***")))
    assert as_law_left(parts, taken_out) == taken_out


def a_document(data: bytes = b"%PDF-1.7 pages", media_type: str = PDF) -> Prompt:
    content = DocumentPart(media_type=media_type, data=data, title="Bill")
    return a_prompt(messages=(Message(role=MessageRole.USER, parts=(Part(content, USER),)),))


def test_a_document_that_is_no_pdf_is_text() -> None:
    with pytest.raises(MediaInvalid) as refused:
        checked_prompt(a_document(b"\xff so", "text/plain"))
    assert str(refused.value.field).endswith("document.data")


def test_a_pdf_is_one_by_its_bytes_and_by_its_name() -> None:
    checked_prompt(a_document())
    checked_prompt(a_document(b"A page.", "text/plain"))
    for lie in (a_document(b"<html>"), a_document(b""), a_document(media_type="text/plain")):
        with pytest.raises(MediaInvalid) as refused:
            checked_prompt(lie)
        assert refused.value.field == "messages[0].parts[0].document.media_type"


def test_pdfs_count_with_pictures_and_take_nothing_of_the_room_for_text() -> None:
    checked_prompt(a_document(b"%PDF-" + b"x" * (MAX_MEDIA_BYTES - 5)))
    with pytest.raises(MediaInvalid):
        checked_prompt(a_document(b"%PDF-" + b"x" * (MAX_MEDIA_BYTES - 4)))


def test_a_prompt_with_a_pdf_is_bounded_by_the_window_of_the_model() -> None:
    assert bound(a_document(), Adapter.OPENAI, context_tokens=128_000) == 128_000
    with pytest.raises(CallNotBounded):
        bound(a_document(), Adapter.OPENAI)
    blob = Part(BlobPart(blob_id="b", media_type="text/plain", size_bytes=1, owner="tools"), USER)
    (said,) = a_document().messages
    both = a_prompt(messages=(replace(said, parts=(*said.parts, blob)),))
    with pytest.raises(CallNotBounded):
        bound(both, Adapter.OPENAI, context_tokens=128_000)


def test_the_law_sees_a_line_in_the_place_of_a_pdf_and_what_it_is_called() -> None:
    parts = a_document().parts
    (seen,) = shown_to_law(parts)
    assert isinstance(seen.content, TextPart)
    assert seen.content.text.startswith("[document application/pdf 14 bytes sha256:")
    assert seen.content.text.endswith("] Bill")
    assert as_law_left(parts, (seen,)) == parts


def test_how_closely_a_picture_is_looked_at_is_part_of_the_intent_and_only_if_it_is_said() -> None:
    usual = showing(picture(a_png()))
    close = showing(replace(picture(a_png()), detail=ImageDetail.HIGH))
    assert usual.arguments_hash("m") != close.arguments_hash("m")
