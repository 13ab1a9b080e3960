"""What runs took beside what was expected of them, once they were learnt from."""

import asyncio

import pytest

from comitia_sdk.aio import AsyncClient
from tests.e2e.conftest import Begun, until


@pytest.mark.timeout(420)
def test_what_runs_took_is_drawn_beside_what_was_expected(begun: Begun) -> None:
    shell = begun.shell
    shown = shell.run("run", "show", begun.warned)
    assert "estimated" in shown
    assert shown.count("; took ") == 3

    async def learn() -> None:
        async with AsyncClient(shell.mesh.url, api_key=shell.key) as client:

            async def learnt() -> bool:
                runs = {run.run_id async for run in client.estimates.list(page_size=500)}
                return runs == {begun.warned, begun.silent, begun.session}

            await until(learnt, seconds=240)

    for noun in ("session", "run"):
        assert shell.run(noun, "show", begun.session).count("; took ") == 3

    asyncio.run(learn())
    assert "made after its end" in shell.run("run", "show", begun.silent)
    runs = shell.json("estimate", "think", "--history")
    assert {run["reference"] for run in runs} == {"think@1.0.0"}
    assert all(int(run["cost_nano_usd"]) > 0 for run in runs)
    # The latest rests on the one before it at least, so its interval was held against what came.
    assert int(runs[0]["estimate"]["calibrated_on"]) > 0
    drawn = shell.run("estimate", "think", "--history").splitlines()
    assert drawn[0].split() == ["ended", "estimated", "actual", "run"]
    rows = [line for line in drawn if "run_" in line]
    assert [line.split("  ")[-1].split()[0] for line in rows] == [run["run_id"] for run in reversed(runs)]
    assert all("─" in line and ("●" in line or "○" in line) for line in rows)
    assert "held the cost" in drawn[-1]
    sessions = [run for run in shell.json("estimate", "--history") if run["reference"] == "debate"]
    assert [run["run_id"] for run in sessions] == [begun.session]
