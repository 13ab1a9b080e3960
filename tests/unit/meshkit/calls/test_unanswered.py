"""What was asked and not answered is found once, by who asks the same."""

from uuid import UUID

from services.meshkit.calls.unanswered import Unanswered

ONE, TWO = UUID(int=1), UUID(int=2)


def test_each_id_is_given_out_once_and_to_the_same_question_only() -> None:
    unanswered = Unanswered()
    unanswered.add(("a",), ONE)
    unanswered.add(("a",), TWO)
    assert unanswered.take(("b",)) is None
    assert {unanswered.take(("a",)), unanswered.take(("a",))} == {ONE, TWO}
    assert unanswered.take(("a",)) is None


def test_the_oldest_question_makes_room() -> None:
    unanswered = Unanswered(most=1)
    unanswered.add(("a",), ONE)
    unanswered.add(("b",), TWO)
    assert unanswered.take(("a",)) is None
    assert unanswered.take(("b",)) == TWO
