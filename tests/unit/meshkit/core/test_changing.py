"""Copies with other values in some fields are those that `dataclasses.replace` makes."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from services.meshkit.core.changing import changing


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    name: str
    height: int = 3
    tags: tuple[str, ...] = ()


def test_a_copy_has_the_new_values_and_the_old_one_stays() -> None:
    place, changed = Place(name="Delphi", tags=("old",)), changing(Place)
    assert changed(place, height=4) == replace(place, height=4) == Place(name="Delphi", height=4, tags=("old",))
    assert changed(place) == place
    assert changed(place) is not place
    assert place.height == 3
    with pytest.raises(FrozenInstanceError):
        changed(place, height=4).height = 5  # type: ignore[misc]


def test_a_field_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        changing(Place)(Place(name="Delphi"), depth=4)


def test_what_is_computed_or_kept_elsewhere_is_not_copied_so() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        name: str
        size: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "size", len(self.name))

    @dataclass(frozen=True)
    class Loose:
        name: str

    for kind in (Checked, Loose):
        with pytest.raises(TypeError, match=kind.__name__):
            changing(kind)
