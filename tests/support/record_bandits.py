"""Writes what MABWiser makes of the same calls as our bandits: `tests/unit/inference/fixtures/bandits.json`.

MABWiser (Fidelity, Apache-2.0) is the oracle of `tests/unit/inference/test_bandits.py`. It brings scikit-learn, pandas
and matplotlib, so it is asked in an environment of its own, and its answers are kept:

    python -m venv /tmp/oracle && /tmp/oracle/bin/pip install mabwiser==2.7.4
    /tmp/oracle/bin/python tests/support/record_bandits.py
"""

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

FIXTURE = Path(__file__).parents[1] / "unit" / "inference" / "fixtures" / "bandits.json"
ARMS = ("acme/small@1", "acme/large@2", "openai/gpt-4o-mini")
_CALLS = 120
_ASKED = 20
_DRAWS = 20_000


def main() -> None:
    """Asks the oracle and writes what it says."""
    mab: Any = import_module("mabwiser.mab")
    policies = mab.LearningPolicy
    dice = Random(2010)
    arms = [dice.choice(ARMS) for _ in range(_CALLS)]
    rewards = [round(dice.random(), 4) for _ in range(_CALLS)]
    contexts = [[1.0, *(round(dice.random(), 4) for _ in range(5))] for _ in range(_CALLS)]
    asked = [[1.0, *(round(dice.random(), 4) for _ in range(5))] for _ in range(_ASKED)]
    linucb = mab.MAB(list(ARMS), policies.LinUCB(alpha=1.0, l2_lambda=1.0))
    linucb.fit(arms, rewards, contexts)
    # Few lessons, so that what is believed of the arms overlaps, and all of them are drawn. It takes 0 and 1 only.
    few = [(arm, round(reward)) for arm, reward in zip(arms, rewards, strict=True)][:30]
    thompson = mab.MAB(list(ARMS), policies.ThompsonSampling(), seed=7)
    thompson.fit([arm for arm, _ in few], [reward for _, reward in few])
    learnt = thompson._imp
    chosen = [thompson.predict() for _ in range(_DRAWS)]
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(
        json.dumps(
            {
                "oracle": f"mabwiser {version('mabwiser')}",
                "arms": arms,
                "rewards": rewards,
                "contexts": contexts,
                "asked": asked,
                "linucb": [
                    {arm: float(worth) for arm, worth in one.items()} for one in linucb.predict_expectations(asked)
                ],
                "thompson": {
                    "lessons": len(few),
                    "alpha": {arm: float(learnt.arm_to_success_count[arm]) for arm in ARMS},
                    "beta": {arm: float(learnt.arm_to_fail_count[arm]) for arm in ARMS},
                    "draws": _DRAWS,
                    "chosen": {arm: chosen.count(arm) for arm in ARMS},
                },
            },
            separators=(",", ":"),
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
