"""Whatever keeps a service from looking through its record is a fault among others, so that all is seen at once."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.launcher.backups import checks
from services.launcher.layout import DataDir
from services.meshkit.core.checked import Checked

SOUND = Checked(what="all there")


def ended(code: int, said: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([sys.executable], code, stdout=said.encode())


def look(monkeypatch: pytest.MonkeyPatch, folder: Path, answers: Mapping[str, object]) -> dict[str, Sequence[str]]:
    """Looks through a mesh whose services answer so; gives the faults by what was looked at."""

    async def databases(_ours: object) -> Sequence[Checked]:
        return [SOUND]

    async def keys(_data: DataDir, _ours: object) -> Checked:
        return SOUND

    def run_short(command: Sequence[str], _environment: object, **_others: Any) -> subprocess.CompletedProcess[bytes]:
        answer = answers.get(command[2].split(".")[1], ended(0, '{"checked": "3 of them", "faults": []}\n'))
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, subprocess.CompletedProcess)
        return answer

    monkeypatch.setattr(checks, "find_databases", lambda *_: None)
    monkeypatch.setattr(checks, "service_environment", lambda *_: {})
    monkeypatch.setattr(checks, "_databases", databases)
    monkeypatch.setattr(checks, "_keys", keys)
    monkeypatch.setattr(checks, "run_short", run_short)
    found = checks.check_mesh(DataDir(folder), {}, lambda _: None, administrator="postgresql://nowhere").found
    return {one.what: list(one.faults) for one in found}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (ended(1, "Traceback\nKeyUnreadable: no key\n"), "KeyUnreadable: no key"),
        (ended(-9, ""), "signal SIGKILL"),
        (ended(1, '{"checked": "3 ho'), '{"checked": "3 ho'),
        (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (subprocess.TimeoutExpired(["check"], 5), "it takes longer than 24 hours"),
    ],
)
def test_a_service_that_fails_to_look_is_a_fault_and_the_others_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: object, sentence: str
) -> None:
    assert look(monkeypatch, tmp_path, {"cost": answer}) == {
        "all there": [],
        "3 of them": [],
        "cost cannot be looked through": [sentence],
    }


def test_a_look_that_ends_before_it_has_said_all_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = look(monkeypatch, tmp_path, {"cost": ended(-9, '{"checked": "4 holds", "faults": []}\n')})
    assert (told["4 holds"], told["cost cannot be looked through"]) == ([], ["signal SIGKILL"])
