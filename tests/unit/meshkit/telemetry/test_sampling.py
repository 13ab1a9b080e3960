"""What is recorded is decided where a trace begins, by dice of ours: callers neither fill the queue nor hide a call."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.telemetry.sampling import Sampling, is_recorded

MANY = 20_000
ids = st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1))
flags = st.integers(0, 255)
ratios = st.sampled_from([0.0, 0.05, 1.0])


def sampled(ratio: float, seed: int = 1) -> Sampling:
    return Sampling(ratio, random=Random(seed), secret=Random(seed))


def context(of: tuple[int, int], flag: int) -> str:
    return f"00-{of[0]:032x}-{of[1]:016x}-{flag:02x}"


def part(recorded: list[bool]) -> float:
    return sum(recorded) / len(recorded)


@given(of=ids, flag=st.sampled_from([0, 1]), ratio=ratios)
def test_what_a_neighbour_decided_stands(of: tuple[int, int], flag: int, ratio: float) -> None:
    said = context(of, flag)
    assert sampled(ratio).received(said, neighbour=True) == said


@given(of=ids, flag=flags, ratio=ratios)
def test_a_caller_from_outside_keeps_its_ids_and_decides_nothing(of: tuple[int, int], flag: int, ratio: float) -> None:
    went_on = sampled(ratio).received(context(of, flag), neighbour=False)
    assert went_on[:-2] == context(of, flag)[:-2]
    assert went_on == sampled(ratio).received(context(of, 255 - flag), neighbour=False)
    if ratio in (0, 1):
        assert is_recorded(went_on) == bool(ratio)


def test_of_a_later_version_goes_on_what_this_one_knows() -> None:
    said = "cc" + context((7, 7), 255)[2:]
    assert sampled(1.0).received(said, neighbour=False) == context((7, 7), 1)


@pytest.mark.parametrize("flag", [0, 1])
def test_a_caller_who_found_ids_that_were_recorded_gains_nothing_by_sending_them_again(flag: int) -> None:
    sampling = sampled(0.05)
    same = context((7, 7), flag)
    assert 0.04 < part([is_recorded(sampling.received(same, neighbour=False)) for _ in range(MANY)]) < 0.06


def test_of_traces_that_begin_here_about_as_many_are_recorded_as_is_told() -> None:
    sampling = sampled(0.05)
    begun = [sampling.begun() for _ in range(MANY)]
    assert 0.04 < part([is_recorded(one) for one in begun]) < 0.06
    assert len({one[:35] for one in begun}) == MANY
    assert all(sampling.received(one, neighbour=True) == one for one in begun)


def test_a_name_gives_the_same_ids_everywhere_and_does_not_tell_whether_it_is_recorded() -> None:
    here, there = sampled(0.25, 1), sampled(0.25, 2)
    turns = [("run_1", f"rounds/{number}/Ada", "0") for number in range(MANY)]
    assert [here.planned(*turn)[:-3] for turn in turns] == [there.planned(*turn)[:-3] for turn in turns]
    both = [(is_recorded(here.planned(*turn)), is_recorded(there.planned(*turn))) for turn in turns]
    assert 0.23 < part([of_here for of_here, _ in both]) < 0.27
    assert 0.04 < part([of_here and of_there for of_here, of_there in both]) < 0.085


@given(named=st.lists(st.text(), min_size=1, max_size=3), ratio=ratios)
def test_a_name_is_decided_once(named: list[str], ratio: float) -> None:
    sampling = sampled(ratio)
    planned = sampling.planned(*named)
    assert planned == sampling.planned(*named) == sampling.received(planned, neighbour=True)
    if ratio in (0, 1):
        assert is_recorded(planned) == bool(ratio)
