import json
from collections.abc import Sequence

import pytest

from services.meshkit import checking
from services.meshkit.core.checked import Checked
from services.meshkit.core.errors import Unavailable
from services.meshkit.settings import ServiceSettings


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "read_settings", lambda _name, _type: None)


def run(check: checking.Check[ServiceSettings]) -> object:
    with pytest.raises(SystemExit) as ended:
        checking.run_check("cost", ServiceSettings, check)
    return ended.value.code


def test_a_sound_record_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    async def check(_: ServiceSettings) -> Sequence[Checked]:
        return [Checked(what="3 runs")]

    assert run(check) == 0
    assert said(capsys) == [{"checked": "3 runs", "faults": []}]


def test_faults_are_told_as_many_as_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    async def check(_: ServiceSettings) -> Sequence[Checked]:
        return [Checked(what="3 runs"), Checked(what="90 holds", faults=[str(number) for number in range(90)])]

    assert run(check) == 1
    assert [len(one["faults"]) for one in said(capsys)] == [0, checking.MOST_FAULTS]  # type: ignore[arg-type]


def test_a_database_that_is_away_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    async def check(_: ServiceSettings) -> Sequence[Checked]:
        raise Unavailable("the database")

    assert run(check) == 1
    [one] = said(capsys)
    assert one["checked"] == "cost cannot be looked through"
    assert "the database" in str(one["faults"])


def test_whatever_ends_a_look_is_a_fault_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async def check(_: ServiceSettings) -> Sequence[Checked]:
        raise ValueError("not a tree")

    assert run(check) == 1
    assert said(capsys) == [{"checked": "cost cannot be looked through", "faults": ["ValueError: not a tree"]}]
